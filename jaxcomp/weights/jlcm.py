"""JLCM: a few learned codebooks, each for outputs of like distribution, learned with their codes.

    w[o, i] ~ Q = scale[o] * table[class(o), code[o, i]]

Lowers the error of the layer's output on the vectors x that were observed, tr((W - Q) H (W - Q)^T),
H = sum x x^T + damping * mean(diag H) * I, in turn over

    tables  least squares: conjugate gradients on the few levels of each class
    scales  least squares, one number for each output
    codes   input by input, to the level that lowers the error most among the present one and its
            two neighbours (the proximal search), given all other inputs

It starts from outputs clustered by their quantiles and codebooks of least sum H_ii (w - q)^2, and
keeps the best of all rounds: it is never worse than they are, `rounds=0`.

Yvinec et al., Network Memory Footprint Compression Through Jointly Learnable Codebooks and
Mappings, arXiv:2309.17361. We differ: the paper reorders neurons, so that equal classes lie
together and no index is stored; here an output says its class by a byte, 8 / in bits per weight,
and nothing else has to be reordered. Steps are of least squares where the paper's are of stochastic
gradient, on the layer's output. The first pass over the codes is that of gptq, free to go to any
level: with neighbours alone it ends a tenth to a quarter higher.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Integer

from jaxcomp.base import Transform
from jaxcomp.formats.codebook import MOST_TABLES, codebook
from jaxcomp.formats.format import Format
from jaxcomp.formats.layout import to_matrix
from jaxcomp.lift.statistics import second_moment
from jaxcomp.weights.gptq import Factor, Record, factor, note
from jaxcomp.weights.options import check_real, check_whole

QUANTILES = 32  # of an output's values: enough to tell a short tail from a long one
BINS = 512  # of the values that a first codebook is found for; later steps see the values
CLUSTERING, LLOYD, GRADIENTS = 10, 10, 2  # iterations: of each, more changed no error by 1 %
BLOCK = 128  # columns between two products with all errors so far


class Fit(NamedTuple):
    """Q = scales * tables[choices, codes]; levels ascend. The matrix lies as [in, out]."""

    tables: Float[Array, "classes levels"]
    choices: Integer[Array, " out"]
    scales: Float[Array, " out"]
    codes: Integer[Array, "in out"]


def jlcm(bits: int, *, classes: int = 4, rounds: int = 5, damping: float = 0.01) -> Transform:
    """Needs the second moment of a weight's inputs. A table of bfloat16 for each class, and a scale
    and a byte for each output: a few classes want hundreds of inputs and outputs.

    classes  codebooks of a matrix; one needs no byte
    rounds   over tables, scales and codes; each costs about 6 products [out, in, in]
    """
    check_whole(1, 8, bits=bits, advice="3 or 4 are usual")
    check_whole(1, MOST_TABLES, classes=classes, advice="4 are usual")
    check_whole(0, rounds=rounds, advice="5 serve")
    check_real(0, damping=damping, advice="0.01 serves")
    whole = Format(bits, group=-1)

    def compress(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        moment = statistics["moment"]
        known = factor(moment, damping, whole, order="activation", block=BLOCK)
        note(Record(matrix.shape, known.damping, damping), None)
        count = min(classes, len(matrix))
        found = _solve(matrix, moment, known, damping, 1 << bits, count, rounds)
        choices = None if count == 1 else found.choices
        table, scales = found.tables[:, None, :, None], found.scales[:, None]
        size = matrix.shape[1]
        leaf = codebook(found.codes.T, table, scales, choices, size=size, dtype=w.dtype)
        return leaf.placed(place)

    return Transform(compress, second_moment, "jlcm")


@functools.partial(jax.jit, static_argnums=(4, 5))
def _solve(w, moment, known, damping, levels, classes, rounds):
    columns, more = known.columns, len(known.columns) - len(moment)
    diagonal = jnp.diagonal(moment)
    mean = diagonal.sum() / jnp.maximum((diagonal > 0).sum(), 1)
    damping = jnp.where(jnp.isfinite(known.damping), known.damping, damping)
    h = moment / jnp.where(mean > 0, mean, 1.0) + damping * jnp.eye(len(moment), dtype=moment.dtype)
    h = jnp.pad(h, (0, more))[columns[:, None], columns]
    w = jnp.pad(w.astype(jnp.float32), ((0, 0), (0, more))).T[columns]
    found = solve(w, h, known, start(w, jnp.diagonal(h), levels, classes), rounds)
    codes = jnp.zeros_like(found.codes).at[columns].set(found.codes)
    return found._replace(codes=codes[: len(moment)])


def start(w: Float[Array, "in out"], weight: Float[Array, " in"], levels: int, classes: int) -> Fit:
    """Classes by shape, a codebook for each, then Lloyd's steps: tables, classes and scales, codes.

    Of least sum over i of weight_i (w_i - q_i)^2, as they will be stored.
    """
    scales = jnp.abs(w).max(0)
    scales = jnp.where(scales > 0, scales, 1.0)
    choices = cluster(w / scales, classes)
    weight = jnp.broadcast_to(weight[:, None], w.shape)
    tables = codebooks(w / scales, weight * scales**2, choices, levels, classes)
    fit = Fit(tables, choices, scales, nearest(w, scales[:, None] * tables[choices]))

    def lloyd(_, fit):
        top, below = (by_level(fit, weight * fit.scales * x) for x in (w, fit.scales))
        fit = ascending(fit._replace(tables=ratio(top, below, fit.tables)))

        def served(table):
            """(error of each output by this table, its best scale)."""
            near = table[nearest(w, fit.scales[:, None] * table)]
            scale = ratio((weight * w * near).sum(0), (weight * near**2).sum(0), fit.scales)
            scale = jnp.maximum(scale, 0.0)
            return (weight * (w - scale * near) ** 2).sum(0), scale

        errors, scales = lax.map(served, fit.tables)
        choices = errors.argmin(0)
        scales = jnp.take_along_axis(scales, choices[None], 0)[0]
        codes = nearest(w, scales[:, None] * fit.tables[choices])
        return Fit(fit.tables, choices, scales, codes)

    fit = stored(lax.fori_loop(0, LLOYD, lloyd, fit))
    return fit._replace(codes=nearest(w, levels_of(fit)))


def solve(
    w: Float[Array, "in out"], h: Float[Array, "in in"], known: Factor, fit: Fit, rounds: Any
) -> Fit:
    """The best of all rounds, each over tables, scales and codes; the start where none is."""
    live = jnp.diagonal(h)
    pull = h * ratio(jnp.ones_like(live), live, 0.0)[:, None] * (1 - jnp.eye(len(h), dtype=h.dtype))

    def kept(fit, best):
        off = value(fit) - w
        error = (product(h, off) * off).sum()
        return jax.tree.map(lambda a, b: jnp.where(error < best[1], a, b), (fit, error), best)

    def turn(i, carry):
        fit, best = carry
        fit = stored(fit_scales(w, h, fit_tables(w, h, fit)))
        free = i == 0
        fit = move(w, jnp.where(free, known.feed.T, pull), fit, jnp.where(free, 256, 1))
        return fit, kept(fit, best)

    best = kept(fit, (fit, jnp.float32(jnp.inf)))
    return lax.fori_loop(0, rounds, turn, (fit, best))[1][0]


def move(w: Float[Array, "in out"], pull: Float[Array, "in in"], fit: Fit, reach: Any) -> Fit:
    """Column after column, codes to the level nearest to w_i + sum_j pull_ij (w - q)_j.

    No farther than `reach` levels from where they are.
    """
    ladder = levels_of(fit)

    def block(k, carry):
        off, codes = carry
        at = k * width
        mine, before, own = (lax.dynamic_slice_in_dim(a, at, width) for a in (w, off, codes))
        here = mine + product(lax.dynamic_slice_in_dim(pull, at, width), off)
        inner = lax.dynamic_slice(pull, (at, at), (width, width))

        def column(i, carry):
            after, own = carry
            x = here[i] + product(inner[i], after - before)
            code = jnp.clip(nearest(x[None], ladder)[0], own[i] - reach, own[i] + reach)
            near = jnp.take_along_axis(ladder, code[:, None], 1)[:, 0]
            return after.at[i].set(mine[i] - near), own.at[i].set(code)

        done = lax.fori_loop(0, width, column, (before, own))
        return tuple(
            lax.dynamic_update_slice_in_dim(a, b, at, 0) for a, b in zip(carry, done, strict=True)
        )

    width = next(n for n in range(min(BLOCK, len(w)), 0, -1) if len(w) % n == 0)
    carry = (w - value(fit), fit.codes)
    return fit._replace(codes=lax.fori_loop(0, len(w) // width, block, carry)[1])


def fit_tables(w: Float[Array, "in out"], h: Float[Array, "in in"], fit: Fit) -> Fit:
    """Towards the levels of least error, by conjugate gradients on each class for itself."""

    def up(tables):
        return value(fit._replace(tables=tables))

    def down(x):
        return by_level(fit, x * fit.scales)

    count = down(jnp.diagonal(h)[:, None] * fit.scales)
    scaling = ratio(jnp.ones_like(count), count, 0.0)
    rest = down(product(h, w - value(fit)))
    search = scaling * rest

    def step(_, state):
        tables, rest, search, size = state
        moved = down(product(h, up(search)))
        pace = ratio(size, (search * moved).sum(1), 0.0)[:, None]
        tables, rest = tables + pace * search, rest - pace * moved
        now = (rest * scaling * rest).sum(1)
        search = scaling * rest + ratio(now, size, 0.0)[:, None] * search
        return tables, rest, search, now

    state = (fit.tables, rest, search, (rest * search).sum(1))
    return ascending(fit._replace(tables=lax.fori_loop(0, GRADIENTS, step, state)[0]))


def fit_scales(w: Float[Array, "in out"], h: Float[Array, "in in"], fit: Fit) -> Fit:
    unit = value(fit._replace(scales=jnp.ones_like(fit.scales)))
    moved = product(h, unit)
    scales = ratio((moved * w).sum(0), (moved * unit).sum(0), fit.scales)
    return fit._replace(scales=jnp.maximum(scales, 0.0))  # so that levels ascend


def cluster(shapes: Float[Array, "in out"], classes: int) -> Integer[Array, " out"]:
    """k-means of the quantiles of each output, from centres far from each other."""
    places = (2 * jnp.arange(QUANTILES) + 1) * len(shapes) // (2 * QUANTILES)
    points = jnp.sort(shapes, 0)[places].T  # [out, quantiles]

    def distances(centres):
        return jnp.square(points[:, None] - centres).sum(-1)

    def farthest(i, centres):
        known = jnp.where(jnp.arange(classes) < i, distances(centres), jnp.inf)
        return centres.at[i].set(points[known.min(1).argmax()])

    def mean(_, centres):
        member = jax.nn.one_hot(distances(centres).argmin(1), classes, dtype=points.dtype)
        return ratio(product(member.T, points), member.sum(0)[:, None], centres)

    typical = points[distances(points.mean(0)[None])[:, 0].argmin()]
    centres = lax.fori_loop(1, classes, farthest, jnp.tile(typical, (classes, 1)))
    return distances(lax.fori_loop(0, CLUSTERING, mean, centres)).argmin(1)


def codebooks(
    u: Float[Array, "in out"],
    weight: Float[Array, "in out"],
    choices: Integer[Array, " out"],
    levels: int,
    classes: int,
) -> Float[Array, "classes levels"]:
    """The levels of least sum weight (u - level)^2 for each class, over bins of the values.

    Cells of a best codebook are intervals, so dynamic programming finds them.
    """
    low, high = u.min(), u.max()
    bins = ((u - low) / jnp.where(high > low, high - low, 1.0) * BINS).astype(jnp.int32)
    where = choices * BINS + jnp.minimum(bins, BINS - 1)

    def sums(x):  # from the first bin on, [classes, BINS + 1]
        binned = jnp.zeros(classes * BINS, x.dtype).at[where].add(x).reshape(classes, BINS)
        return jnp.pad(jnp.cumsum(binned, 1), ((0, 0), (1, 0)))

    def best(mass, first, second):
        mass, first, second = (x - x[:, None] for x in (mass, first, second))  # of bins i to j - 1
        mean = ratio(first, mass, 0.0)
        cost = jnp.maximum(second - first * mean, 0.0)
        edge = jnp.arange(BINS + 1)
        cost = jnp.where(edge[:, None] <= edge, cost, jnp.inf)

        def one_more(total, _):
            total = total[:, None] + cost
            return total.min(0), total.argmin(0)

        def back(end, begins):
            begin = begins[end]
            return begin, jnp.where(begin < end, mean[begin, end], -jnp.inf)

        nothing = jnp.where(edge == 0, 0.0, jnp.inf)
        _, begins = lax.scan(one_more, nothing, None, length=levels)
        _, found = lax.scan(back, BINS, begins, reverse=True)
        # Cells that are not needed take the largest level.
        return jnp.sort(jnp.where(found == -jnp.inf, found.max(), found))

    return jax.vmap(best)(sums(weight), sums(weight * u), sums(weight * u * u))


def nearest(x: Float[Array, "rows out"], ladder: Float[Array, "out levels"]) -> jax.Array:
    """The code of the level nearest to each x, where levels ascend."""
    middles = (ladder[:, 1:] + ladder[:, :-1]) / 2
    zero = jnp.zeros(x.shape, jnp.int32)
    return lax.fori_loop(0, middles.shape[1], lambda k, code: code + (x > middles[:, k]), zero)


def levels_of(fit: Fit) -> Float[Array, "out levels"]:
    return fit.scales[:, None] * fit.tables[fit.choices]


def value(fit: Fit) -> Float[Array, "in out"]:
    index = fit.choices * fit.tables.shape[1] + fit.codes
    return fit.tables.reshape(-1)[index] * fit.scales


def by_level(fit: Fit, x: Float[Array, "in out"]) -> Float[Array, "classes levels"]:
    """Sums over the weights of each level of each class, in an order that is always the same."""
    levels = jnp.arange(fit.tables.shape[1])
    each = lax.map(lambda k: jnp.where(fit.codes == k, x, 0).sum(0), levels)  # [levels, out]
    return product(each, jax.nn.one_hot(fit.choices, len(fit.tables), dtype=each.dtype)).T


def ascending(fit: Fit) -> Fit:
    """The same with sorted levels."""
    order = jnp.argsort(fit.tables, 1)
    rank = jnp.argsort(order, 1).reshape(-1).astype(fit.codes.dtype)
    codes = rank[fit.choices * fit.tables.shape[1] + fit.codes]
    return fit._replace(tables=jnp.take_along_axis(fit.tables, order, 1), codes=codes)


def stored(fit: Fit) -> Fit:
    """With tables and scales as bfloat16 holds them."""
    return fit._replace(
        tables=fit.tables.astype(jnp.bfloat16).astype(jnp.float32),
        scales=fit.scales.astype(jnp.bfloat16).astype(jnp.float32),
    )


def ratio(top: jax.Array, below: jax.Array, otherwise: Any) -> jax.Array:
    return jnp.where(below > 0, top / jnp.where(below > 0, below, 1.0), otherwise)


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision="highest")
