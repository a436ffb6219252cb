"""AdaQuant: weights and grid moved together, by gradient, to where their rounding errs least.

Lowers the error of the layer's output on the vectors x that were observed,

    tr((W - Q) H (W - Q)^T),  H = sum x x^T + damping * mean(diag H) * I,
    Q = (level(V / s + z) - z) s,

over V (from W on), the scales s and the zeros z, by Adam. The rounding of codes, scales and zeros
passes gradients as if it were not there; beyond the ends of the grid V gets none.

Hubara et al., Improving Post Training Neural Quantization, 2020, equation 2. We differ: the second
moment stands for the calibration set, so the error is that of all of it at each step; V and s are
measured in steps of the starting grid, so one rate serves all layers; biases and ranges of
activations are not tuned; each output keeps the best of all steps, so it is never worse than at
the start.

From rtn it ends between rtn and gptq; from gptq it gains a few per cent, or nothing.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxcomp.base import Transform, UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.formats.format import Format
from jaxcomp.formats.layout import to_matrix
from jaxcomp.formats.qtensor import from_groups, read, store
from jaxcomp.lift.statistics import second_moment
from jaxcomp.weights.gptq import gptq
from jaxcomp.weights.rtn import rtn

STARTS = ("rtn", "gptq")
RATE = 0.1  # in steps of the grid: the best of 0.01 to 0.4 on correlated inputs, at 2 to 4 bits
SLOWER = 0.1  # scales and zeros move whole groups


class Moving(NamedTuple):
    """values: V / s of the start; scales: log2 of s / s of the start; zeros, or None."""

    values: Float[Array, "rows groups group"]
    scales: Float[Array, "rows groups"]
    zeros: Float[Array, "rows groups"] | None


def adaquant(
    format: Format,
    *,
    start: str = "rtn",
    steps: int = 300,
    rate: float = RATE,
    damping: float = 0.01,
    clip: bool = False,
) -> Transform:
    """Needs the second moment of a weight's inputs. Each step costs a product [out, in, in].

    start  the grid and weights to begin with, of "rtn" (with its `clip`) or "gptq" (by activation)
    rate   of V at first; it falls to 0 along a cosine
    """
    if start not in STARTS:
        raise UnsupportedInput(f"expected start among {STARTS}, got {start!r}; choose one of them")
    first = rtn(format, clip=clip)
    if start == "gptq":
        first = gptq(format, order="activation", clip=clip, damping=damping)

    def compress(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        moment = statistics["moment"]
        begun = first.compress(matrix, statistics, (-1,))
        grid = begun.scales, begun.zeros
        values = matrix if start == "rtn" else begun.dense()
        options = (format, steps, rate, jnp.dtype(w.dtype))
        return _solve(matrix, values, grid, moment, damping, *options).placed(place)

    return Transform(compress, second_moment, "adaquant")


@functools.partial(jax.jit, static_argnums=(5, 6, 7, 8))
def _solve(w, values, grid, moment, damping, format, steps, rate, dtype):
    w, values = w.astype(jnp.float32), values.astype(jnp.float32)
    mean = jnp.diagonal(moment).mean()
    h = moment / jnp.where(mean > 0, mean, 1.0) + damping * jnp.eye(len(moment))
    scales, zeros = read(*grid, format)
    best = solve(w, grids.in_groups(values, format), scales, zeros, h, format, steps, rate)
    moved, scales, zeros = placed(best, scales, format)
    moved = moved.reshape(len(w), -1)[:, : w.shape[1]]
    return from_groups(moved, format, scales=scales, zeros=zeros, dtype=dtype)


def solve(
    w: Float[Array, "out in"],
    values: Float[Array, "rows groups group"],
    scales: Float[Array, "rows groups"],
    zeros: Float[Array, "rows groups"] | None,
    h: Float[Array, "in in"],
    format: Format,
    steps: int,
    rate: float,
) -> Moving:
    """The best that was met, of each row where rows are independent."""
    start = Moving(values / scales[..., None], jnp.zeros_like(scales), zeros)
    falling = optax.cosine_decay_schedule(rate, max(1, steps))
    slow = optax.chain(optax.adam(falling), optax.scale(SLOWER))
    labels = Moving("fast", "slow", None if zeros is None else "slow")
    optimizer = optax.multi_transform({"fast": optax.adam(falling), "slow": slow}, labels)

    # Rows are independent, unless their scales share a grid.
    alone = len(values) == len(w) and isinstance(format.scale, str)
    alone = alone and not isinstance(format.zero, Format)

    def error(moving):
        near = rounded(moving, scales, format).reshape(len(w), -1)[:, : w.shape[1]]
        off = near - w
        push = lax.stop_gradient(jnp.matmul(off, h, precision="highest"))
        # What has the gradient of sum(off H off), and its value, with one product.
        each = lax.stop_gradient(push * off).sum(-1)
        each = each if alone else jnp.broadcast_to(each.sum(), len(values))
        return (2 * push * off).sum(), each

    def kept(moving, errors, best, least):
        better = lower(errors, least)

        def pick(new, old):
            return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return jax.tree.map(pick, moving, best), jnp.where(better, errors, least)

    def step(_, state):
        moving, memory, *best = state
        (_, errors), gradient = jax.value_and_grad(error, has_aux=True)(moving)
        update, memory = optimizer.update(gradient, memory)
        return optax.apply_updates(moving, update), memory, *kept(moving, errors, *best)

    state = (start, optimizer.init(start), start, error(start)[1])
    moving, _, *best = lax.fori_loop(0, steps, step, state)
    return kept(moving, error(moving)[1], *best)[0]


def lower(errors: Float[Array, " rows"], least: Float[Array, " rows"]) -> Bool[Array, " rows"]:
    """Whether squared errors fell. Below 0, or not finite, are sums that overflowed."""
    return (errors >= 0) & (errors < least)


def placed(moving: Moving, scales: Float[Array, "rows groups"], format: Format) -> Any:
    """(V, scales, zeros), before they are rounded to what is stored."""
    moved = scales * jnp.exp2(moving.scales)
    return moving.values * scales[..., None], moved, moving.zeros


def rounded(
    moving: Moving, scales: Float[Array, "rows groups"], format: Format
) -> Float[Array, "rows groups group"]:
    """Q as it will be stored; gradients are straight-through."""
    values, scales, zeros = placed(moving, scales, format)
    kept = read(*store(*jax.tree.map(lax.stop_gradient, (scales, zeros)), format), format)
    scales = _through(scales, kept[0])[..., None]
    zeros = 0.0 if zeros is None else _through(zeros, kept[1])[..., None]
    u = values / scales + zeros
    level = grids.value(grids.nearest(lax.stop_gradient(u), format), format)
    ends = grids.levels(format)
    inside = (u > float(ends.min()) - 0.5) & (u < float(ends.max()) + 0.5)
    return (jnp.where(inside, _through(u, level), level) - zeros) * scales


def _through(x, rounded):
    """rounded, with the gradient of x."""
    return x + lax.stop_gradient(rounded - x)
