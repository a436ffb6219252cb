"""OutlierVictim: pairs of 4-bit codes in which an outlier takes its neighbour's place.

Inputs 2 i and 2 i + 1 are a pair. A code is one of -7..7, or the identifier: then its own weight is
0 (the victim), and the other code of the pair is a float that reaches far beyond (the outlier).

    identifier  0                normal  8 + integer, from 1 to 15
    outlier     the highest bit a sign, the others 1 to 7 for 12, 16, 24, 32, 48, 64, 96

    w = scale * value

So an outlier costs no index and no byte: all takes 4 bits. Outlier codes of 0 and 8 are not
written, so that the two codes of a pair are never both identifiers; 8 would read as 0.

Guo et al., OliVe, arXiv:2304.07493, section 3: int4 with the outlier type E2M1 of bias 2.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Integer

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.formats import rows
from jaxcomp.formats.format import Format
from jaxcomp.formats.layout import Layout, merged_axis
from jaxcomp.formats.leaf import Leaf, leaf_class, static
from jaxcomp.formats.qtensor import check_concrete, from_codes, read, store
from jaxcomp.kernels import packing

IDENTIFIER, ZERO, NORMAL = 0, 8, 7
OUTLIERS = (12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0)
MIDDLES = tuple((a + b) / 2 for a, b in zip(OUTLIERS, OUTLIERS[1:], strict=False))
# What the largest magnitude of a group is tried as, in steps of its scale: the largest normal value
# and each outlier, so that a weight on the grid comes back, and two numbers between any of these.
SPANS = tuple(
    a * (b / a) ** (turn / 3)
    for a, b in zip((NORMAL, *OUTLIERS), (*OUTLIERS, 144.0), strict=True)
    for turn in range(3)
)


@leaf_class
class OutlierVictim(Leaf):
    """codes u8 [..., in' / 2, ...]; scales [..., groups, ...]. format: group, scale and tile."""

    codes: Any  # a file is read once without arrays
    scales: Any
    format: Format = static()
    dtype: object = static()
    packed: object = static()

    follows = ("codes", "scales")

    def dense(self) -> jax.Array:
        axis = merged_axis(self.packed)
        codes = packing.unpack(self.codes, 4, axis=axis, tile=self.format.tile)
        values = decode(jnp.moveaxis(codes, axis, -1))  # [*free, in']
        scales = jnp.moveaxis(read(self.scales, None, self.format)[0], axis, -1)
        grouped = values.reshape(*values.shape[:-1], scales.shape[-1], -1)
        return rows.from_last((grouped * scales[..., None]).reshape(values.shape), self)

    def matmul(self, x: jax.Array) -> jax.Array:
        return rows.matmul(x, self)

    def describe(self) -> str:
        return str(self.format)

    def kernel(self, platform: str, dtype: Any = None) -> tuple[str, str]:
        return "blocked lax", "" if platform == "cpu" else f"no kernel for pairs on {platform}"

    def placed(self, place: Layout) -> "OutlierVictim":
        """From the matrix [out, in] that it is, to where `place` says."""
        return rows.place(self, place)


def decode(codes: Integer[Array, "*free in"]) -> Float[Array, "*free in"]:
    """The value of each code, in steps of its scale."""
    pairs = codes.astype(jnp.int32).reshape(*codes.shape[:-1], -1, 2)
    marked = pairs == IDENTIFIER
    far = jnp.asarray((0.0, *OUTLIERS), jnp.float32)[pairs & 7]
    far = jnp.where(pairs >= ZERO, -far, far)
    value = jnp.where(marked[..., ::-1], far, (pairs - ZERO).astype(jnp.float32))
    return jnp.where(marked, 0.0, value).reshape(codes.shape)


def encode(
    u: Float[Array, "*free in"],
) -> tuple[Integer[Array, "*free in"], Float[Array, "*free in"]]:
    """(codes, their values) of u = w / scale: of each pair the coding of least squared error.

    Both normal, or one of them an outlier and the other 0.
    """
    pairs = u.reshape(*u.shape[:-1], -1, 2)
    normal = jnp.clip(jnp.round(pairs), -NORMAL, NORMAL)
    which = sum((jnp.abs(pairs) > middle).astype(jnp.int32) for middle in MIDDLES)
    far = jnp.where(pairs < 0, -1.0, 1.0) * jnp.asarray(OUTLIERS, jnp.float32)[which]
    far_code = which + 1 + jnp.where(pairs < 0, ZERO, 0)
    both = jnp.square(normal - pairs).sum(-1, keepdims=True)
    alone = jnp.square(far - pairs) + jnp.square(pairs[..., ::-1])  # this one far, the other 0
    first = alone <= alone[..., ::-1]
    first = first.at[..., 1].set(~first[..., 0])  # in a tie the even one is the outlier
    chosen = first & (alone < both)
    victim = chosen[..., ::-1]
    codes = jnp.where(chosen, far_code, normal.astype(jnp.int32) + ZERO)
    codes = jnp.where(victim, IDENTIFIER, codes)
    values = jnp.where(victim, 0.0, jnp.where(chosen, far, normal))
    return codes.reshape(u.shape), values.reshape(u.shape)


def outlier_victim(
    w: Float[Array, "out in"], format: Format, *, dtype: Any = jnp.float32
) -> OutlierVictim:
    """The matrix, with the scale of least squared error for each group among SPANS.

    format: its group, even or -1, and scale are used, and pad and name.
    """
    if format.group is None or format.bits != 4:
        raise UnsupportedInput(
            f"expected 4 bits with an even group, or a scale per output (group=-1), got {format}; "
            "pass jc.formats.INT4"
        )
    check_concrete(w, "w")
    format = format._replace(table=None, zero=None, offset=ZERO)
    codes, scales = _search(w.astype(jnp.float32), format)
    leaf = from_codes(codes, scales, None, format, size=w.shape[1], dtype=dtype)
    return OutlierVictim(leaf.codes, leaf.scales, leaf.format, leaf.dtype, leaf.packed)


@functools.partial(jax.jit, static_argnums=1)
def _search(w, format):
    """(codes [out, in'], scales as stored)."""
    grouped = grids.in_groups(w, format)
    largest = jnp.abs(grouped).max(-1)
    largest = jnp.where(largest > 0, largest, 1.0)

    def coded(scale):
        kept = read(*store(scale, None, format), format)[0][..., None]
        codes, values = encode(grouped / jnp.where(kept == 0, 1.0, kept))
        return codes, jnp.square(values * kept - grouped).sum(-1)

    def step(i, best):
        scale = largest / jnp.asarray(SPANS, jnp.float32)[i]
        off = coded(scale)[1]
        return tuple(
            jnp.where(off < best[0], a, b) for a, b in zip((off, scale), best, strict=True)
        )

    start = jnp.full_like(largest, jnp.inf), largest
    _, scale = lax.fori_loop(0, len(SPANS), step, start)
    return coded(scale)[0].reshape(len(w), -1), store(scale, None, format)[0]
