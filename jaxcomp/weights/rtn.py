"""Round to nearest: each weight to the nearest level of a grid that spans its group.

    scale = range / levels;  code = round(w / scale + zero)

With clip=True the range of each group is shrunk by p = 1 - i/100, i < 80, to the p of the least
sum |dequantised - w|^norm: outliers are cut off where that serves the others. The norm 2.4 is the
convention of Frantar et al., GPTQ, 2022 (reference code); 2 is the mean squared error.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxcomp.base import Transform
from jaxcomp.formats import format as grids
from jaxcomp.formats.format import Format
from jaxcomp.formats.layout import to_matrix
from jaxcomp.formats.qtensor import from_groups, read, store

STEPS = 80  # the range is shrunk by up to 79 %


def rtn(format: Format, *, clip: bool = False, norm: float = 2.4) -> Transform:
    """Data-free. clip searches the range of each group."""
    grids.check(format)

    def compress(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        return _round(matrix, format, clip, norm, w.dtype).placed(place)

    return Transform(compress, None, "rtn")


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _round(w, format, clip, norm, dtype):
    w = w.astype(jnp.float32)
    if not clip:
        return from_groups(w, format, dtype=dtype)
    scales, zeros = clipped(grids.in_groups(w, format), format, norm=norm)
    return from_groups(w, format, scales=scales, zeros=zeros, dtype=dtype)


def clipped(
    w: Float[Array, "out groups group"],
    format: Format,
    *,
    norm: float = 2.4,
    weight: Float[Array, "out groups group"] | None = None,
) -> tuple[Float[Array, "out groups"], Float[Array, "out groups"] | None]:
    """(scales, zeros) of the shrunk range of least sum weight |dequantised - w|^norm per group.

    One candidate at a time, so memory is that of w.
    """

    def error(scales, zeros):
        _, near = grids.round_to(w, *read(*store(scales, zeros, format), format), format)
        off = jnp.abs(near - w) ** norm
        return (off if weight is None else off * weight).sum(-1)

    def step(i, best):
        least, *kept = best
        found = grids.fit(w, format, shrink=1 - i / 100)
        off = error(*found)
        better = off < least
        found = [f for f in found if f is not None]
        return jnp.where(better, off, least), *(
            jnp.where(better, new, old) for new, old in zip(found, kept, strict=True)
        )

    start = grids.fit(w, format)
    found = lax.fori_loop(1, STEPS, step, (error(*start), *(x for x in start if x is not None)))
    return found[1], found[2] if len(found) > 2 else None
