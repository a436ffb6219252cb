"""NUPES: powers of integers whose exponent, scale and codes are learned on the layer's output.

    w ~ scale * sgn(q) |q|^(1 / a),  q an integer of few bits,  a <= 1

Lowers the error of the output on the vectors x that were observed,

    tr((W - Q) H (W - Q)^T),  H = sum x x^T + damping * mean(diag H) * I,

by Adam, where power searches a and the scale for the weights alone. A code is learned over the
whole grid: it is round(v) of a real v, with Q between two levels in proportion to v for the
gradient, so that none vanishes at 0, where the slope of the power does; dQ/da = -Q log|q| / a^2
has its logarithm cut at |q| = 1. Each output keeps the best of all steps.

Yvinec et al., NUPES, arXiv:2308.05600. We differ: the second moment stands for the calibration
set; exponents are of an output and not of a layer, on a grid of EXPONENTS, so that they are a byte;
codes pass gradients straight through, where softened rounding as in the paper ended 18 to 29 %
higher; and codes may start as gptq leaves them, with about half the error of
codes that gradients alone have moved. The paper's product of integers, (xy)^a = x^a y^a, serves
activations that are powers as well; ours are not, so levels are looked up.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Integer

from jaxcomp.base import Transform, UnsupportedInput
from jaxcomp.formats.format import Format, check
from jaxcomp.formats.grid_choice import choose, chosen
from jaxcomp.formats.integer import INT4
from jaxcomp.formats.layout import to_matrix
from jaxcomp.formats.level_rules import Levels, check_levels, tables
from jaxcomp.formats.qtensor import read, store
from jaxcomp.lift.statistics import second_moment
from jaxcomp.weights.adaquant import lower
from jaxcomp.weights.gptq import Factor, Record, factor, note
from jaxcomp.weights.jlcm import BLOCK, Fit, move
from jaxcomp.weights.options import check_real, check_whole

STARTS = ("gptq", "power")
# From beyond cubes to the uniform grid. Steps of 0.01 lower errors by 1 % at most; all
# stand in each leaf's rule, so they are few. Every fifth is searched first, as many as power tries.
LEAST, STEP, SEARCHED = 0.3, 0.02, 5
EXPONENTS = tuple(round(LEAST + STEP * i, 2) for i in range(36))
RATE = 0.1  # of v, in codes: 0.3 from power and 0.03 from gptq end within 10 %, on either side
SLOWER = 0.1  # log2 of a scale, which moves a whole output, and an exponent


class Moving(NamedTuple):
    """codes: v, from the lowest integer to the highest; scales: log2 of s / s of the start."""

    codes: Float[Array, "out in"]
    exponents: Float[Array, "out 1"]
    scales: Float[Array, "out 1"]


def nupes(
    format: Format = INT4,
    *,
    start: str = "gptq",
    steps: int = 300,
    rate: float = RATE,
    damping: float = 0.01,
) -> Transform:
    """Needs the second moment of a weight's inputs. Each step costs a product [out, in, in].

    format  its bits, 2 to 8, and scale, one for each output with a byte for the exponent
    start   after the search of power: codes of the nearest levels, "power", or those of "gptq"
    rate    of codes at first; it falls to 0 along a cosine
    """
    if start not in STARTS:
        raise UnsupportedInput(f"expected start among {STARTS}, got {start!r}; choose one of them")
    check(format)
    check_whole(0, steps=steps, advice="300 serve")
    check_real(0, rate=rate, damping=damping, advice="the defaults serve")
    if format.group != -1 or not isinstance(format.scale, str):
        raise UnsupportedInput(
            f"expected a format with a plain scale for each output, got {format}; set group=-1, as "
            "INT4 has it"
        )
    ladders = Levels("power", format.bits, EXPONENTS)
    check_levels(ladders)
    fewer = ladders._replace(of=EXPONENTS[::SEARCHED])
    format = format._replace(table=None, offset=0, zero=None, name=f"power{format.bits}")
    whole = Format(format.bits, group=-1)

    def compress(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        moment = statistics["moment"]
        first = choose(matrix, fewer, format)
        known = None
        if start == "gptq":
            known = factor(moment, damping, whole, order="activation", block=BLOCK)
            note(Record(matrix.shape, known.damping, damping), None)
        searched = (first.scales, first.choices.astype(jnp.int32) * SEARCHED)
        codes, *found = _solve(matrix, moment, known, *searched, damping, rate, format, steps)
        size = matrix.shape[1]
        leaf = chosen(codes, *found, ladders, format, size=size, dtype=w.dtype)
        return leaf.placed(place)

    return Transform(compress, second_moment, "nupes")


@functools.partial(jax.jit, static_argnums=(7, 8))
def _solve(w, moment, known, scales, choices, damping, rate, format, steps):
    w = w.astype(jnp.float32)
    mean = jnp.diagonal(moment).mean()
    h = moment / jnp.where(mean > 0, mean, 1.0) + damping * jnp.eye(len(moment))
    scales = read(scales, None, format)[0]
    if known is None:
        codes = coordinates(w / jnp.where(scales > 0, scales, 1.0), choices[:, 0], format.bits)
    else:
        codes = of_gptq(w, known, scales[:, 0], choices[:, 0], format.bits)
    moving = Moving(codes, LEAST + STEP * choices, jnp.zeros_like(scales))
    best = solve(w, h, moving, scales, format, steps, rate)
    top = _top(format.bits)
    codes = jnp.round(jnp.clip(best.codes, -top - 1, top)).astype(jnp.int32) + top + 1
    return codes, store(scales * jnp.exp2(best.scales), None, format)[0], _place(best.exponents)


def solve(
    w: Float[Array, "out in"],
    h: Float[Array, "in in"],
    start: Moving,
    scales: Float[Array, "out 1"],
    format: Format,
    steps: int,
    rate: Any,
) -> Moving:
    """The best of each output that was met; `scales` are those of the start."""
    falling = optax.cosine_decay_schedule(1.0, max(1, steps))
    optimizer = optax.adam(falling)
    paces = Moving(rate, rate * SLOWER, rate * SLOWER)

    def error(moving):
        off = rounded(moving, scales, format) - w
        push = lax.stop_gradient(jnp.matmul(off, h, precision="highest"))
        # A half of the gradient of sum(off H off), with one product; Adam sees no difference.
        return (push * off).sum(), lax.stop_gradient(push * off).sum(1)

    def kept(moving, errors, best, least):
        better = lower(errors, least)
        best = jax.tree.map(lambda a, b: jnp.where(better[:, None], a, b), moving, best)
        return best, jnp.where(better, errors, least)

    def step(_, state):
        moving, memory, *best = state
        (_, errors), gradient = jax.value_and_grad(error, has_aux=True)(moving)
        update, memory = optimizer.update(gradient, memory)
        moved = jax.tree.map(lambda x, by, pace: x + pace * by, moving, update, paces)
        return moved, memory, *kept(moving, errors, *best)

    state = (start, optimizer.init(start), start, error(start)[1])
    moving, _, *best = lax.fori_loop(0, steps, step, state)
    return kept(moving, error(moving)[1], *best)[0]


def rounded(moving: Moving, scales: Float[Array, "out 1"], format: Format) -> jax.Array:
    """Q as it will be stored, with the gradients that the steps take."""
    top = _top(format.bits)
    wanted = jnp.clip(moving.exponents, EXPONENTS[0], EXPONENTS[-1])
    exponents = _through(wanted, LEAST + STEP * _place(wanted))
    scales = scales * jnp.exp2(moving.scales)
    scales = _through(scales, read(store(scales, None, format)[0], None, format)[0])
    v = jnp.clip(moving.codes, -top - 1, top)
    held = lax.stop_gradient(v)
    below = jnp.minimum(jnp.floor(held), top - 1)
    slope = lax.stop_gradient(level(below + 1, exponents, top) - level(below, exponents, top))
    return (level(jnp.round(held), exponents, top) + (v - held) * slope) * scales


def level(q: jax.Array, exponents: jax.Array, top: int) -> jax.Array:
    """sgn(q) |q / top|^(1 / a) of integers q."""
    size = jnp.maximum(jnp.abs(q), 1.0) / top
    return jnp.sign(q) * jnp.exp(jnp.log(size) / exponents)


def coordinates(
    u: Float[Array, "out in"], choices: Integer[Array, " out"], bits: int
) -> Float[Array, "out in"]:
    """v of which u is the level, in proportion between two integers; round(v) is the nearest."""
    ladders = jnp.asarray(tables(Levels("power", bits, EXPONENTS)), jnp.float32)[choices]
    below = sum((u >= ladders[:, k, None]).astype(jnp.int32) for k in range(1, (1 << bits) - 1))
    low, high = (jnp.take_along_axis(ladders, below + k, 1) for k in (0, 1))
    return below + jnp.clip((u - low) / (high - low), 0.0, 1.0) - _top(bits) - 1


def of_gptq(
    w: Float[Array, "out in"],
    known: Factor,
    scales: Float[Array, " out"],
    choices: Integer[Array, " out"],
    bits: int,
) -> Float[Array, "out in"]:
    """The integers that gptq rounds to on these grids."""
    columns, size = known.columns, w.shape[1]
    ladders = jnp.asarray(tables(Levels("power", bits, EXPONENTS)), jnp.float32)
    turned = jnp.pad(w, ((0, 0), (0, len(columns) - size))).T[columns]
    fit = Fit(ladders, choices, scales, jnp.zeros(turned.shape, jnp.int32))
    codes = move(turned, known.feed.T, fit, 1 << bits).codes
    codes = jnp.zeros_like(codes).at[columns].set(codes)[:size].T
    return codes.astype(jnp.float32) - _top(bits) - 1


def _place(exponents):
    """Which of EXPONENTS is nearest."""
    place = jnp.round((lax.stop_gradient(exponents) - LEAST) / STEP).astype(jnp.int32)
    return jnp.clip(place, 0, len(EXPONENTS) - 1)


def _top(bits):
    return (1 << bits - 1) - 1


def _through(x, kept):
    """kept, with the gradient of x."""
    return x + lax.stop_gradient(kept - x)
