"""AQLM: each run of d inputs is a sum of vectors from learned codebooks, found on the outputs.

    Q[o, g] = s_o * sum over m of C_m[code[o, g, m]]        g: a run of d inputs, m: a codebook

minimises tr((W - Q) H (W - Q)^T), H = sum x x^T + damping * mean(diag H) * I, in turns:

    start     C by k-means of the runs of W / s, each book on what those before leave over
    codes     beam search: group after group, book after book, every output at once; a code moves
              the error by  -2 <delta, (D H)_g> + delta H_gg delta^T,  D = W - Q
    C and s   with codes held still the error is a quadratic of C, and of each s

Egiazarian et al., Extreme compression of large language models via additive quantization, 2024,
section 3: equation 6 is the error, 7 and 8 the beam search, section 3.3 the codebooks. We differ:
k-means counts each weight by s_o^2 H_jj, so inputs that matter less move it less; C and s are
solved by conjugate gradients and in closed form, which need a tenth of the products that the
paper's Adam needs for the same error, and no rate; groups come in their order; errors are those of
what is stored, and no turn adds to them; in place of fine-tuning by blocks there is
jc.weights.pv_tuning.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Integer

from jaxcomp.base import Transform
from jaxcomp.formats.codebook import tabled
from jaxcomp.formats.k_means import LIMIT, in_chunks, k_means, nearest
from jaxcomp.formats.layout import to_matrix
from jaxcomp.lift.statistics import second_moment
from jaxcomp.weights.options import check_real, check_whole

KEPT = "bfloat16"  # codebooks and scales; float16 has no room for scales of large weights
DONE = 1e-9  # of the first squared gradient: below it there is only rounding, which would grow


class Sums(NamedTuple):
    """What stands for a matrix; table and scales are as they will be stored."""

    codes: Integer[Array, "out groups books"]
    table: Float[Array, "books levels vector"]
    scales: Float[Array, " out"]


class Options(NamedTuple):
    """As aqlm has them."""

    vector: int
    books: int
    bits: int
    scaled: bool
    beam: int
    steps: int
    turns: int
    tolerance: float


def aqlm(
    *,
    vector: int = 8,
    books: int = 2,
    bits: int = 8,
    scaled: bool = True,
    beam: int = 1,
    steps: int = 10,
    turns: int = 20,
    tolerance: float = 0.01,
    damping: float = 0.01,
    data_free: bool = False,
) -> Transform:
    """Needs the second moment of a weight's inputs; with data_free none: H is the identity.

    A weight takes books * bits / vector bits, 16 / in more where it is scaled, and the codebooks
    16 * books * 2^bits * vector bits in all: little of a large matrix, most of a small one, where
    few bits of short vectors serve. A matrix of fewer runs than 2^bits has as many levels as runs.

    vector     inputs of a run; the last run of a row may be short
    scaled     whether each output has a scale
    beam       sums that the search goes on with: 8 in the paper, which takes 4 to 6 % off the error
               of 1; with 4 a search takes 6 times as long
    steps      of conjugate gradients in a turn
    turns      at most; it ends with one that lowers the error by less than `tolerance` of it

    A turn costs `steps` + 2 * books * beam products [out, in, in]. Takes 40 MiB and 6 times what
    the weight takes in float32, whatever the beam.
    """
    usual = "vectors of 8 with 2 books of 8 bits take 2 bits a weight"
    check_whole(1, vector=vector, books=books, advice=usual)
    check_whole(1, 16, bits=bits, advice=usual)
    check_whole(1, beam=beam, advice="1 is the fastest")
    check_whole(0, steps=steps, turns=turns, advice="10 steps and 20 turns serve")
    check_real(0, 1, tolerance=tolerance, advice="0.01 serves")
    check_real(0, damping=damping, advice="0.01 serves")
    options = Options(vector, books, bits, scaled, beam, steps, turns, tolerance)

    def compress(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        moment = jnp.eye(place.size_in, dtype=jnp.float32) if data_free else statistics["moment"]
        return _compress(matrix, moment, damping, options, jnp.dtype(w.dtype)).placed(place)

    return Transform(compress, None if data_free else second_moment, "aqlm")


@functools.partial(jax.jit, static_argnums=(3, 4))
def _compress(w, moment, damping, options, dtype):
    size = w.shape[1]
    more = -size % options.vector
    mean = jnp.diagonal(moment).mean()
    h = moment / jnp.where(mean > 0, mean, 1.0) + damping * jnp.eye(size, dtype=moment.dtype)
    w = jnp.pad(w.astype(jnp.float32), ((0, 0), (0, more)))
    codes, table, scales = solve(w, jnp.pad(h, (0, more)), options)
    scales = scales[:, None] if options.scaled else None
    return tabled(codes, table[None, None], scales, size, KEPT, dtype)


def solve(w: Float[Array, "out in"], h: Float[Array, "in in"], options: Options) -> Sums:
    """Inputs that only fill up have zeros in w and h."""
    vector, books, bits, scaled, beam, steps, turns, tolerance = options
    scales = jnp.ones(len(w), w.dtype)
    if scaled:
        power = jnp.diagonal(h)
        rms = jnp.sqrt((w**2 * power).sum(1) / power.sum())
        scales = _stored(jnp.where(rms > 0, rms, 1.0))
    runs = (w / scales[:, None]).reshape(-1, vector)
    weights = (scales[:, None] ** 2 * jnp.diagonal(h)).reshape(-1, vector)
    levels = min(1 << bits, len(runs))

    def add_book(rest, book):
        table = _stored(k_means(rest, weights, levels, stream=book))
        codes = nearest(rest, weights, table)
        return rest - table[codes], (table, codes)

    _, (table, codes) = lax.scan(add_book, runs, jnp.arange(books, dtype=jnp.uint32))
    start = Sums(codes.T.reshape(len(w), -1, books), table, scales)

    def turn(state):
        count, now, least, _ = state
        moved = fitted(w, h, now, steps, scaled)
        moved = Sums(moved.codes, _stored(moved.table), _stored(moved.scales))
        better = errors(w, h, moved).sum() < errors(w, h, now).sum()
        now = jax.tree.map(lambda new, old: jnp.where(better, new, old), moved, now)
        now = now._replace(codes=search(w, h, now, beam))
        return count + 1, now, errors(w, h, now).sum(), least

    def unfinished(state):
        count, _, least, before = state
        return (count < turns) & (least < (1 - tolerance) * before)

    first = (0, start, errors(w, h, start).sum(), jnp.float32(jnp.inf))
    return lax.while_loop(unfinished, turn, first)[1]


def _stored(x: jax.Array) -> jax.Array:
    return x.astype(KEPT).astype(jnp.float32)


def decoded(sums: Sums) -> Float[Array, "out in"]:
    """Q, without its scales where they are all 1."""
    total = sum(book[sums.codes[..., m]] for m, book in enumerate(sums.table))
    return total.reshape(len(sums.codes), -1) * sums.scales[:, None]


def errors(w: Float[Array, "out in"], h: Float[Array, "in in"], sums: Sums) -> Float[Array, " out"]:
    """(W - Q) H (W - Q)^T of each output."""
    off = w - decoded(sums)
    return (jnp.matmul(off, h, precision="highest") * off).sum(1)


def fitted(
    w: Float[Array, "out in"], h: Float[Array, "in in"], sums: Sums, steps: int, scaled: bool
) -> Sums:
    """Codebooks, and then scales, of less error for these codes."""
    codes, table, scales = sums
    blank = jnp.zeros_like(table)
    runs = (len(w), -1, table.shape[-1])

    def gathered(rows):  # what multiplies the entries of the codebooks in Q, transposed
        rows = (rows * scales[:, None]).reshape(runs)
        return jnp.stack(
            [
                blank[m].at[codes[..., m]].add(rows, mode="promise_in_bounds")
                for m in range(len(table))
            ]
        )

    def product(table):
        rows = decoded(sums._replace(table=table))
        return gathered(jnp.matmul(rows, h, precision="highest"))

    off = jnp.matmul(w - decoded(sums), h, precision="highest")
    # Conjugate gradients on C, scaled by the diagonal; entries that no code names stay.
    weight = scales[:, None] * jnp.diagonal(h)
    diagonal = gathered(jnp.broadcast_to(weight, w.shape))
    inverse = jnp.where(diagonal > 0, 1 / jnp.where(diagonal > 0, diagonal, 1.0), 0.0)

    def step(_, state):
        table, rest, direction, power = state
        moved = product(direction)
        curve = (direction * moved).sum()
        going = (curve > 0) & (power > DONE * first[3])
        length = jnp.where(going, power / jnp.where(going, curve, 1.0), 0.0)
        table, rest = table + length * direction, rest - length * moved
        downhill = inverse * rest
        new = (rest * downhill).sum()
        keep = jnp.where(going, new / jnp.where(going, power, 1.0), 0.0)
        return table, rest, downhill + keep * direction, new

    rest = gathered(off)
    direction = inverse * rest
    first = (table, rest, direction, (rest * direction).sum())
    table = lax.fori_loop(0, steps, step, first)[0]
    if not scaled:
        return sums._replace(table=table)
    plain = decoded(Sums(codes, table, jnp.ones_like(scales)))
    moved = jnp.matmul(plain, h, precision="highest")
    curve = (moved * plain).sum(1)
    best = jnp.where(curve > 0, (moved * w).sum(1) / jnp.where(curve > 0, curve, 1.0), scales)
    return Sums(codes, table, best)


def search(
    w: Float[Array, "out in"], h: Float[Array, "in in"], sums: Sums, beam: int
) -> Integer[Array, "out groups books"]:
    """Codes of less error, of each output those given or better ones."""
    out, size = w.shape
    _, groups, books = sums.codes.shape
    floats = beam * (2 * size + groups * books + sums.table.shape[1])
    rows = min(out, max(1, LIMIT // floats))

    def chunk(each):
        w, codes, scales = each
        before = Sums(codes, sums.table, scales)
        after = before._replace(codes=_searched(w, h, before, beam))
        better = errors(w, h, after) < errors(w, h, before)
        return jnp.where(better[:, None, None], after.codes, codes)

    return in_chunks(chunk, (w, sums.codes, sums.scales), rows)


def _searched(w, h, sums, beam):
    rows, groups, books = sums.codes.shape
    table, scales = sums.table, sums.scales[:, None, None]
    levels, vector = table.shape[1:]
    off = w - decoded(sums)
    push = jnp.matmul(off, h, precision="highest")  # D H
    # All sums are the same at first: the others wait at infinity.
    lost = jnp.pad((off * push).sum(1)[:, None], ((0, 0), (0, beam - 1)), constant_values=jnp.inf)

    def repeated(x):
        return jnp.broadcast_to(x[:, None], (rows, beam, *x.shape[1:]))

    def step(i, state):
        codes, push, lost = state  # [rows, beam, groups, books], [rows, beam, in], [rows, beam]
        group, book = i // books, i % books
        start = group * vector
        across = lax.dynamic_slice_in_dim(h, start, vector)  # [vector, in]
        inside = lax.dynamic_slice_in_dim(across, start, vector, 1)
        entries = table[book]
        turned = jnp.matmul(entries, inside, precision="highest")
        power = (turned * entries).sum(1)
        old = codes[:, :, group, book]
        pull = lax.dynamic_slice_in_dim(push, start, vector, 2)
        linear = 2 * scales * pull + 2 * scales**2 * turned[old]
        away = lost + (2 * scales * pull * entries[old]).sum(-1) + scales[..., 0] ** 2 * power[old]
        scores = jnp.einsum("rbv,kv->rbk", linear, entries, precision="highest")
        scores = away[..., None] - scores + scales**2 * power
        if beam == 1:
            new = scores.argmin(-1)
            lost = jnp.take_along_axis(scores, new[..., None], -1)[..., 0]
        else:
            # Two that differ here alone become the same: the later one gives way.
            here = (jnp.arange(groups) == group)[:, None] & (jnp.arange(books) == book)
            same = (codes[:, :, None] == codes[:, None]) | here
            earlier = jnp.tril(jnp.ones((beam, beam), bool), -1)
            same = (same.all((-1, -2)) & earlier & jnp.isfinite(lost)[:, None]).any(-1)
            scores = jnp.where(same[..., None], jnp.inf, scores)
            negative, at = lax.top_k(-scores.reshape(rows, -1), beam)
            lost, parent, new = -negative, at // levels, at % levels
            codes = jnp.take_along_axis(codes, parent[..., None, None], 1)
            push = jnp.take_along_axis(push, parent[..., None], 1)
            old = jnp.take_along_axis(old, parent, 1)
        delta = scales * (entries[new] - entries[old])
        push -= jnp.einsum("rbv,vi->rbi", delta, across, precision="highest")
        return codes.at[:, :, group, book].set(new), push, lost

    state = (repeated(sums.codes), repeated(push), lost)
    codes, _, lost = lax.fori_loop(0, groups * books, step, state)
    return jnp.take_along_axis(codes, lost.argmin(1)[:, None, None, None], 1)[:, 0]
