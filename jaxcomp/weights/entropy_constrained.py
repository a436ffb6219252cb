"""Rounding that counts bits: each weight to a level near it, by error and by the level's code.

    minimise  tr((W - Q) H (W - Q)^T) + slope * sum bits(level of q)
    bits(level) = -log2 of its share among the levels of this leaf

over one grid for the whole weight, whose codes jc.io.save_weights stores in as many bits. Levels
and bits depend on each other, so both are found in turn (Chou, Lookabaugh, Gray,
Entropy-constrained vector quantization, 1989, section III; here scalars on a fixed grid). As gptq
does, columns feed their errors forward: with H = R R^T, column k has the weight R_kk^2 and

    u_k = w_k + sum_{i<k} (W - Q)_i R_ik / R_kk

in place of w_k. Step and slope belong together: an entropy-coded uniform grid of step d has error
d^2 / 12 and loses 2 ln 2 d^2 / 12 = 0.116 d^2 for a bit less. So one number chooses both. A slope,
the same in all weights, gives each the bits that serve the sum of errors best (reverse
water-filling); a step, in units of the weight's root mean square, gives each the same ratio of
signal to noise.

With output=True choose the step. One slope takes a squared error to cost the same in the output of
every layer, which it does not. Measured on a language model of 260 K weights in files of one size,
KL by a slope and by a step: 0.033 and 0.019 at 5.2 bits a weight, 0.12 and 0.050 at 4.5, 0.83 and
0.23 at 3.6.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from jaxcomp.base import Transform, UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.formats.format import Format
from jaxcomp.formats.integer import INT8
from jaxcomp.formats.layout import to_matrix
from jaxcomp.formats.qtensor import from_codes, read, store
from jaxcomp.lift.statistics import second_moment

# slope / step**2. Of 0.03 to 0.25, 0.1 to 0.16 serve Gaussian, Laplace and Student weights best,
# within 2 % of each other at 1 bit and 0.9 % at 1.5 to 4; theory for many bits says 0.116.
RATIO = 0.125
ROUNDS = 6  # histograms without feedback, which are cheap; the last changes bits by 0.1 %
PASSES = 3  # over the columns with feedback, starting from those bits
DAMPING = 0.01  # of the mean diagonal, as in gptq
BLOCK = 128  # columns between two products with all errors so far; speed only
ANY_STEP = INT8._replace(group=None)


def entropy_constrained(
    format: Format = ANY_STEP,
    *,
    step: float | int | None = None,
    slope: float | int | None = None,
    output: bool = False,
) -> Transform:
    """The memory of the leaf is that of its format; the file of it is smaller.

    format  symmetric integers with one scale per weight or per output; as many levels as the weight
            spans in steps, or the step grows until it does
    step    of the grid, in root mean squares of the weight: 1.5 gives about 1.3 bits, 0.5 about 3
    slope   what a bit must save of the loss to be spent; one of both. The step follows. With output
            a step serves much better, see above
    output  the loss is the squared error of the outputs, averaged over vectors (needs the second
            moment), not that of the weight
    """
    grids.check(format)
    if (step is None) == (slope is None) or not (step or slope or 0) > 0:
        raise UnsupportedInput(
            f"expected a positive step or slope, got step={step} and slope={slope}; step=0.5 gives "
            "about 3 bits per weight"
        )
    whole = format.group in (None, -1) and format.table is None and format.zero is None
    if not whole or not isinstance(format.scale, str) or format.bits < 2:
        raise UnsupportedInput(
            f"expected symmetric integers with one scale per weight or output, got {format}; "
            "INT8._replace(group=None) holds any step"
        )

    def compress(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        moment = None
        if output:
            moment = statistics["moment"] / jnp.maximum(statistics["count"], 1)
        chosen = jnp.float32(step or slope)
        leaf = _compress(matrix, moment, chosen, format, step is None, jnp.dtype(w.dtype))
        return leaf.placed(place)

    return Transform(compress, second_moment if output else None, "entropy_constrained")


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _compress(w, moment, chosen, format, by_slope, dtype):
    w = w.astype(jnp.float32)
    columns = w.shape[1]
    weight, feed, order = jnp.ones(columns), None, jnp.arange(columns)
    if moment is not None:
        order = jnp.argsort(-jnp.diagonal(moment), stable=True)
        weight, feed = _factor(moment[order[:, None], order[None]])
    mean = weight.mean()
    scale = jnp.sqrt(chosen / (RATIO * mean)) if by_slope else chosen * jnp.sqrt((w**2).mean())
    scale = jnp.where(scale > 0, scale, 1.0)
    rows = 1 if format.group is None else w.shape[0]
    peak = jnp.abs(w.reshape(rows, -1)).max(1, keepdims=True)
    scale = jnp.maximum(scale, peak / grids.top(format))
    kept, _ = store(scale, None, format)
    steps, _ = read(kept, None, format)  # [1 or out, 1]
    # Of a grid that a row made coarser, the bits still cost what they cost.
    price = chosen if by_slope else RATIO * scale.min() ** 2 * mean
    levels = _choose(w[:, order] / steps, steps, weight, feed, price, format)
    levels = jnp.zeros_like(levels).at[:, order].set(levels)
    return from_codes(levels + format.offset, kept, None, format, size=columns, dtype=dtype)


def _factor(moment: Float[Array, "in in"]) -> tuple[Float[Array, " in"], Float[Array, "in in"]]:
    """(R_kk^2, R_ik / R_kk above the diagonal) of the damped moment."""
    diagonal = jnp.diagonal(moment)
    mean = jnp.where(diagonal.mean() > 0, diagonal.mean(), 1.0)
    damped = moment + mean * jnp.diag(jnp.where(diagonal > 0, DAMPING, 1.0))
    upper = jnp.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
    pivots = jnp.diagonal(upper)
    good = jnp.isfinite(upper).all()  # else each column stands for itself
    feed = jnp.where(good, jnp.triu(upper, 1) / pivots, 0.0)
    return jnp.where(good, pivots**2, jnp.diagonal(damped)), feed


def _choose(
    u: Float[Array, "out in"],
    steps: Float[Array, "rows 1"],
    weight: Float[Array, " in"],
    feed: Float[Array, "in in"] | None,
    price: Float[Array, ""],
    format: Format,
) -> Int32[Array, "out in"]:
    """Levels of the least weight (u - level)^2 steps^2 + price bits(level), u in steps."""
    low, top = -format.offset, int(grids.top(format))
    count = top - low + 1

    def bits_of(levels):
        seen = jnp.zeros(count).at[levels - low].add(1.0)
        # Half a count for levels that do not occur: they may, at the price of a rare one.
        return -jnp.log2((seen + 0.5) / (seen.sum() + 0.5 * count))

    def nearby(u, bits, cost):
        """Among the nearest level and the two next to it towards zero: more bits serve nothing."""
        near = jnp.clip(jnp.round(u), -top, top)
        tried = [near]
        for _ in range(2):
            tried.append(tried[-1] - jnp.sign(tried[-1]))
        tried = jnp.stack(tried)
        score = (tried - u) ** 2 + cost * bits[tried.astype(jnp.int32) - low]
        best = jnp.argmin(score, 0)
        return jnp.take_along_axis(tried, best[None], 0)[0]

    cost = jnp.broadcast_to(price / (weight * steps**2), (steps.shape[0], u.shape[1]))

    def passes(levels, choose, count):
        def again(levels, _):
            return choose(bits_of(levels)).astype(jnp.int32), None

        return lax.scan(again, levels, None, length=count)[0]

    first = nearby(u, jnp.zeros(count), cost).astype(jnp.int32)
    levels = passes(first, lambda bits: nearby(u, bits, cost), ROUNDS)
    if feed is None:
        return levels
    more = -u.shape[1] % BLOCK
    wide = [jnp.pad(x, ((0, 0), (0, more))) for x in (u, cost)]
    feed = jnp.pad(feed, (0, more))

    def forward(bits):
        return _feed_forward(*wide, feed, lambda u, cost: nearby(u, bits, cost))[:, : u.shape[1]]

    return passes(levels, forward, PASSES)


def _feed_forward(u, cost, feed, nearby):
    """nearby of each column of u [out, total] and what those before it left over."""

    def block(b, state):
        off, levels = state
        at = b * BLOCK
        here = lax.dynamic_slice_in_dim(u, at, BLOCK, 1)
        into = lax.dynamic_slice_in_dim(feed, at, BLOCK, 1)  # [total, block]
        target = here + off @ into
        own = lax.dynamic_slice_in_dim(into, at, BLOCK, 0)
        price = lax.dynamic_slice_in_dim(cost, at, BLOCK, 1)

        def column(k, state):
            near_off, near = state
            level = nearby(target[:, k] + near_off @ own[:, k], price[:, k])
            return near_off.at[:, k].set(here[:, k] - level), near.at[:, k].set(level)

        blank = jnp.zeros_like(here)
        near_off, near = lax.fori_loop(0, BLOCK, column, (blank, blank))
        off = lax.dynamic_update_slice_in_dim(off, near_off, at, 1)
        return off, lax.dynamic_update_slice_in_dim(levels, near, at, 1)

    blank = jnp.zeros_like(u)
    return lax.fori_loop(0, u.shape[1] // BLOCK, block, (blank, blank))[1]
