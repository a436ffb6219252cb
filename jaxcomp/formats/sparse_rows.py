"""Unstructured sparsity: each output keeps what is not 0, and how far apart that stands.

    place of entry j = gap_0 + ... + gap_j - 1

Every output has room for the same number of entries. A gap takes a few bits; where it is too long,
an entry of value 0 stands in between. Behind the last entry gaps and values are 0. A weight at
density p has gaps of 1/p on average: at 10 % and bfloat16, about 16 + 4 bits for one of ten.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxcomp.base import CapacityError
from jaxcomp.formats import format as grids
from jaxcomp.formats import rows
from jaxcomp.formats.format import Format
from jaxcomp.formats.layout import Layout, merged_axis
from jaxcomp.formats.leaf import Leaf, dense, leaf_class, static
from jaxcomp.formats.qtensor import QTensor, check_concrete, from_groups
from jaxcomp.kernels import packing

GAP_BITS = range(1, 9)  # the widths that packing knows


@leaf_class
class SparseRows(Leaf):
    """values [..., capacity, ...], an array or a QTensor; gaps u8 [..., packed, ...]."""

    values: Any
    gaps: Any
    bits: int = static()
    tile: int = static()
    dtype: Any = static()
    packed: Any = static()

    @jax.jit
    def dense(self) -> jax.Array:
        axis = merged_axis(self.packed)
        size = math.prod(size for _, size in self.packed)
        gaps = packing.unpack(self.gaps, self.bits, axis=axis, tile=self.tile)
        gaps = jnp.moveaxis(gaps, axis, -1)
        values = jnp.moveaxis(dense(self.values).astype(jnp.float32), axis, -1)
        gaps = gaps[..., : values.shape[-1]]
        places = jnp.cumsum(gaps.astype(jnp.int32), -1) - 1
        flat = places.reshape(-1, places.shape[-1])
        w = jnp.zeros((flat.shape[0], size), jnp.float32)
        w = w.at[jnp.arange(len(flat))[:, None], flat].add(
            values.reshape(flat.shape), mode="drop", indices_are_sorted=True
        )
        return rows.from_last(w.reshape(*gaps.shape[:-1], size), self)

    def matmul(self, x: jax.Array) -> jax.Array:
        return rows.matmul(x, self)

    def describe(self) -> str:
        values = self.values
        kind = values.describe() if isinstance(values, QTensor) else str(values.dtype)
        return f"sparse {kind}, gaps of {self.bits} bits"

    def kernel(self, platform: str, dtype: Any = None) -> tuple[str, str]:
        why = f"no kernel for unstructured sparsity on {platform}"
        return "blocked lax", "" if platform == "cpu" else why

    def placed(self, place: Layout) -> "SparseRows":
        """From the matrix [out, in] that it is, to where `place` says."""
        return rows.place(self, place)


def sparse_rows(
    w: Float[Array, "out in"],
    *,
    values: Format | str = "bfloat16",
    gap_bits: int | None = None,
    capacity: int | None = None,
    dtype: Any = jnp.float32,
) -> SparseRows:
    """All that is not 0 in a concrete matrix.

    gap_bits and capacity are those that take the fewest bytes, unless given: give them to stack
    leaves. values: a dtype, or a Format of the kept values. CapacityError where they do not fit.
    """
    grids.check_storage(values)
    check_concrete(w, "w")
    host = np.asarray(w)
    value_bits = values.bits if isinstance(values, Format) else 8 * jnp.dtype(values).itemsize
    widths = GAP_BITS if gap_bits is None else [gap_bits]
    counts = {bits: int(_entries(host, bits).max(initial=1)) for bits in widths}
    bits = min(widths, key=lambda bits: counts[bits] * (bits + value_bits))
    needed = max(1, counts[bits])
    capacity = needed if capacity is None else capacity
    if capacity < needed:
        raise CapacityError(
            f"expected a capacity of at least {needed} entries per output at {bits} bits a gap, "
            f"got {capacity}; allow more, or prune each output to the same number"
        )
    found, gaps = _filled(host, bits, capacity)
    return _stored(found, gaps, bits, values, w.shape[1], jnp.dtype(dtype))


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _stored(found, gaps, bits, values, size, dtype):
    format = Format(bits)
    tile = grids.with_tile(format, gaps.shape[1]).tile
    padded = -(-grids.padded_size(gaps.shape[1], format) // tile) * tile
    gaps = jnp.pad(gaps, ((0, 0), (0, padded - gaps.shape[1])))
    gaps = packing.pack(gaps, bits, axis=1, tile=tile)
    kept = from_groups(found, values) if isinstance(values, Format) else found.astype(values)
    return SparseRows(kept, gaps, bits, tile, dtype, ((-1, size),))


def _steps(w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(output, input, distance to the entry before it in its output) of all entries."""
    out, place = np.nonzero(w)
    before = np.roll(place, 1)
    first = np.ones(len(out), bool)
    first[1:] = out[1:] != out[:-1]
    return out, place, place - np.where(first, -1, before)


def _entries(w: np.ndarray, bits: int) -> np.ndarray:
    """Entries of each output, those of value 0 counted, that gaps below 2**bits need."""
    out, _, distance = _steps(w)
    most = (1 << bits) - 1
    return np.bincount(out, -(-distance // most), w.shape[0]).astype(int)


def _filled(w: np.ndarray, bits: int, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """(values f32, gaps u8) [out, capacity]."""
    out, place, distance = _steps(w)
    most = (1 << bits) - 1
    count = -(-distance // most)  # entries up to and with this one
    total = np.cumsum(count)
    begin = np.concatenate([[0], np.cumsum(_entries(w, bits))])[:-1]
    at = total - 1 - begin[out]  # where it stands in its output
    values = np.zeros((w.shape[0], capacity), np.float32)
    gaps = np.zeros((w.shape[0], capacity), np.uint8)
    values[out, at] = w[out, place]
    filler_out = np.repeat(out, count - 1)
    offset = np.arange(len(filler_out)) - np.repeat(np.cumsum(count - 1) - (count - 1), count - 1)
    gaps[filler_out, np.repeat(at - (count - 1), count - 1) + offset] = most
    gaps[out, at] = distance - (count - 1) * most
    return values, gaps
