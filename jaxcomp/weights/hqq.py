"""HQQ: half-quadratic quantisation, a zero for each group that suits most weights; no data.

The scale s of a group is fixed; its real zero z lowers sum |W - (Q - z) s|^p, p < 1:
few large errors are taken in exchange for many small ones. With e standing for the large errors,

    sum |e / s|^p / p + beta / 2 * ((W - e) / s - (Q - z))^2,

its steps are, in turn, Q to nearest for z; each e the least of its term; z the mean that is least;
beta grows. Badri and Shaji, Half-Quadratic Quantization of Large Machine Learning Models, 2023.

We differ: errors are measured in steps of the grid, so one beta serves weights of any size; e is
the true minimum, not one fixed-point step towards it; and each group keeps the best zero it had.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxcomp.base import Transform, UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.formats.format import Format
from jaxcomp.formats.layout import to_matrix
from jaxcomp.formats.qtensor import from_groups, read, store

BETA = 10.0  # as in the paper; with p = 0.7, errors below 0.17 steps are no outliers at first
GROWTH = 1.01
# Each fixed-point iteration gains a digit or more, except close to where the minimum jumps to 0.
FIXED_POINT = 8


def hqq(format: Format, *, norm: float = 0.7, steps: int = 20) -> Transform:
    """Data-free. format needs real zeros: formats.UINT4_G64._replace(zero="bfloat16").

    norm   p of the error that is lowered, above 0 and at most 1
    steps  of Q, e and z

    UnsupportedInput where zeros are integers or absent.
    """
    grids.check(format)
    if format.zero in (None, "uint8"):
        raise UnsupportedInput(
            f"expected a format whose zeros are real numbers, got zero={format.zero!r}; "
            'use for example formats.UINT4_G64._replace(zero="bfloat16")'
        )
    if not 0 < norm <= 1:
        raise UnsupportedInput(f"expected 0 < norm <= 1, got {norm}; 0.7 serves, 2 is rtn(clip)")

    def compress(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        return _solve(matrix, format, norm, steps, jnp.dtype(w.dtype)).placed(place)

    return Transform(compress, None, "hqq")


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _solve(w, format, norm, steps, dtype):
    w = w.astype(jnp.float32)
    grouped = grids.in_groups(w, format)
    scales, zeros = grids.fit(grouped, format)
    scales, _ = read(*store(scales, zeros, format), format)
    zeros = solve(grouped, scales, zeros, format, norm=norm, steps=steps)
    return from_groups(w, format, scales=scales, zeros=zeros, dtype=dtype)


def solve(
    w: Float[Array, "out groups group"],
    scales: Float[Array, "out groups"],
    zeros: Float[Array, "out groups"],
    format: Format,
    *,
    norm: float,
    steps: int,
) -> Float[Array, "out groups"]:
    """The zeros of the least sum |dequantised - w|^norm per group that were met from `zeros` on."""
    u = w / scales[..., None]

    def at(zeros):
        """(levels, errors in steps of the grid) of zeros as they will be stored."""
        _, kept = read(*store(scales, zeros, format), format)
        levels = grids.value(grids.nearest(u + kept[..., None], format), format)
        return levels, u - (levels - kept[..., None])

    def step(i, state):
        zeros, best, least = state
        levels, off = at(zeros)
        large = outliers(off, BETA * GROWTH**i, norm)
        zeros = best_zero(levels, u - large)
        error = (jnp.abs(at(zeros)[1]) ** norm).sum(-1)
        better = error < least
        return zeros, jnp.where(better, zeros, best), jnp.where(better, error, least)

    start = (zeros, zeros, (jnp.abs(at(zeros)[1]) ** norm).sum(-1))
    return lax.fori_loop(0, steps, step, start)[1]


def outliers(
    off: Float[Array, "*shape"], beta: float | jax.Array, norm: float
) -> Float[Array, "*shape"]:
    """e of the least |e|^norm / norm + beta / 2 (e - off)^2, for each number."""
    size = jnp.abs(off)

    def iterate(_, e):  # falls to the larger of two stationary points, or to 0
        return jnp.maximum(size - jnp.maximum(e, 1e-12) ** (norm - 1) / beta, 0)

    e = lax.fori_loop(0, FIXED_POINT, iterate, size)
    worth = e**norm / norm + beta / 2 * (e - size) ** 2 < beta / 2 * size**2
    return jnp.where(worth, e * jnp.sign(off), 0)


def best_zero(
    levels: Float[Array, "*groups group"], u: Float[Array, "*groups group"]
) -> Float[Array, "*groups"]:
    """z of the least sum (u - (levels - z))^2."""
    return (levels - u).mean(-1)
