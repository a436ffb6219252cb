"""N:M sparsity: at most N of each M values along the inputs are kept, with their places.

A place takes ceil(log2 M) bits: 2:4 in bfloat16 is 8 + 1 bits per weight, and 4 bits of values
under it make 2 + 1. Values are an array, or a QTensor of those that are kept.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.formats import rows
from jaxcomp.formats.format import Format
from jaxcomp.formats.layout import Layout, merged_axis
from jaxcomp.formats.leaf import Leaf, dense, leaf_class, static
from jaxcomp.formats.qtensor import QTensor, check_concrete, from_groups
from jaxcomp.kernels import packing


@leaf_class
class SparseNM(Leaf):
    """values [..., groups * n, ...]; places u8 [..., packed, ...], rising in each group."""

    values: Any
    places: Any
    n: int = static()
    m: int = static()
    tile: int = static()
    dtype: Any = static()
    packed: Any = static()

    follows = ("values", "places")

    @jax.jit
    def dense(self) -> jax.Array:
        axis = merged_axis(self.packed)
        places = packing.unpack(self.places, place_bits(self.m), axis=axis, tile=self.tile)
        places = jnp.moveaxis(places.astype(jnp.int32), axis, -1)
        values = jnp.moveaxis(dense(self.values).astype(jnp.float32), axis, -1)
        kept = -(-math.prod(size for _, size in self.packed) // self.m) * self.n
        places = places[..., :kept].reshape(*places.shape[:-1], -1, self.n)
        values = values[..., :kept].reshape(places.shape)
        each = jnp.arange(self.m)
        w = 0.0
        for i in range(self.n):
            w += jnp.where(places[..., i, None] == each, values[..., i, None], 0.0)
        return rows.from_last(w.reshape(*w.shape[:-2], -1), self)

    def matmul(self, x: jax.Array) -> jax.Array:
        return rows.matmul(x, self)

    def describe(self) -> str:
        values = self.values
        kind = values.describe() if isinstance(values, QTensor) else str(values.dtype)
        return f"{self.n}:{self.m} {kind}"

    def kernel(self, platform: str, dtype: Any = None) -> tuple[str, str]:
        why = f"no kernel for {self.n}:{self.m} sparsity on {platform}"
        return "blocked lax", "" if platform == "cpu" else why

    def placed(self, place: Layout) -> "SparseNM":
        """From the matrix [out, in] that it is, to where `place` says."""
        return rows.place(self, place)


def place_bits(m: int) -> int:
    """Bits of a place among m."""
    return max(1, (m - 1).bit_length())


def sparse_nm(
    w: Float[Array, "out in"],
    n: int,
    m: int,
    *,
    values: Format | str = "bfloat16",
    dtype: Any = jnp.float32,
) -> SparseNM:
    """The n values of largest magnitude of every m, all others 0; the first of equal ones.

    values: a dtype, or a Format of the kept values.
    """
    if not 0 < n <= m <= 256:
        raise UnsupportedInput(
            f"expected 0 < n <= m <= 256, got n={n}, m={m}; 2 and 4 are what hardware knows"
        )
    grids.check_storage(values)
    check_concrete(w, "w")
    return _sparse_nm(w, n, m, values, dtype)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _sparse_nm(w, n, m, values, dtype):
    size = w.shape[1]
    grouped = jnp.pad(w, ((0, 0), (0, -size % m))).reshape(w.shape[0], -1, m)
    places = jnp.sort(jax.lax.top_k(jnp.abs(grouped), n)[1], -1)
    kept = jnp.take_along_axis(grouped, places, -1).reshape(w.shape[0], -1)
    format = Format(place_bits(m))
    tile = grids.with_tile(format, kept.shape[1]).tile
    padded = -(-grids.padded_size(kept.shape[1], format) // tile) * tile
    places = places.reshape(kept.shape).astype(jnp.uint8)
    places = jnp.pad(places, ((0, 0), (0, padded - kept.shape[1])))
    places = packing.pack(places, format.bits, axis=1, tile=tile)
    if isinstance(values, Format):
        stored = from_groups(kept.astype(jnp.float32), values)
    else:
        stored = kept.astype(values)
    return SparseNM(stored, places, n, m, tile, jnp.dtype(dtype), ((-1, size),))
