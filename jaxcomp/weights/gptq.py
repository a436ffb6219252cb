"""GPTQ: columns are rounded one after another, each making up for the errors of those before it.

Minimises the error of the layer's output on the vectors x that were observed,

    tr((W - Q) H (W - Q)^T),  H = sum x x^T + damping * mean(diag H) * I

greedily: with H = R R^T, R upper triangular, the objective is a sum over columns k of
R_kk^2 |w_k + sum_{i<k} (W - Q)_i R_ik / R_kk - q_k|^2, and q_k is the rounding of what precedes it.

Frantar et al., GPTQ, 2022, algorithm 1, in the form of Chee et al., QuIP, 2023, theorem 6, which
gives the same codes: one Cholesky factor and no inverse, so half the digits of H's condition are
lost, not all. We differ: inputs that were never active keep their rounded weights (the reference
code makes them 0), and damping grows until the factor is finite.
"""

import functools
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Integer

from jaxcomp.base import Transform, UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.formats.format import Format
from jaxcomp.formats.layout import to_matrix
from jaxcomp.formats.qtensor import from_codes, read, store
from jaxcomp.lift.statistics import second_moment
from jaxcomp.weights.rtn import clipped

ORDERS = ("none", "activation", "group")
TRIES = 4  # damping grows tenfold each time: beyond 10 times the mean little of H is left


class Damped(UserWarning):
    """H was not positive definite with the damping asked for; more was added, or H was left out."""


class Record(NamedTuple):
    """What became of one matrix [out, in]; damping is inf where H was left out (plain rtn)."""

    shape: tuple[int, int]
    damping: float
    asked: float


def gptq(
    format: Format,
    *,
    order: str = "activation",
    damping: float = 0.01,
    block: int = 128,
    clip: bool = False,
    norm: float = 2.4,
    report: list[Record] | None = None,
) -> Transform:
    """Needs the second moment of a weight's inputs. Storage is that of rtn in every order.

    order   in which columns are rounded: "activation", by falling H_kk, with the scales of all
            groups fitted before, which measured best in nearly all cases; "none", as they stand;
            "group", whole groups and the columns in each by falling H_kk (Gafni et al., 2025,
            group-aware reordering), or as "activation" where a group is a whole row
    block   columns between two products with all errors so far; speed only
    clip    search each group's range, as rtn does; norm is its exponent
    report  a list that gets a Record for each matrix

    In the other two orders scales of a group are fitted to its updated weights, when its first
    column is reached; scales that are themselves on a grid of several groups, and those of whole
    rows, before all columns.
    Warns with Damped where more damping was needed, also if the transform runs outside of jit only.
    Rows are independent: a weight that is sharded over its outputs stays so, under jit as well.
    """
    grids.check(format)
    if order not in ORDERS:
        raise UnsupportedInput(f"expected order among {ORDERS}, got {order!r}; choose one of them")
    if damping < 0 or block < 1:
        raise UnsupportedInput(
            f"expected damping >= 0 and block >= 1, got {damping} and {block}; 0.01 and 128 serve"
        )

    def compress(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        known = factor(statistics["moment"], damping, format, order=order, block=block)
        leaf = _rounded(matrix, known, format, order, block, clip, norm, jnp.dtype(w.dtype))
        note(Record(matrix.shape, known.damping, damping), report)
        return leaf.placed(place)

    return Transform(compress, second_moment, "gptq")


def note(record: Record, report: list[Record] | None) -> None:
    """Appends to the report and warns, unless traced: then damping is not known yet."""
    if isinstance(record.damping, jax.core.Tracer):
        return
    damping = float(record.damping)
    more = damping > record.asked * 1.001
    record = record._replace(damping=damping if more else record.asked)
    if report is not None:
        report.append(record)
    if more:
        what = "was left out (rounded to nearest)"
        if record.damping < float("inf"):
            what = f"was damped by {record.damping:.3g} of its mean"
        warnings.warn(
            f"second moment of a {record.shape} matrix is not positive definite with damping "
            f"{record.asked:.3g}; it {what}; observe more vectors",
            Damped,
            stacklevel=3,
        )


class Factor(NamedTuple):
    """H = R R^T of the damped second moment over its mean diagonal, its columns put in order.

    columns  i32[total]         the column that comes at each place; what fills up comes last
    feed     f32[total, total]  R_ik / R_kk above the diagonal, 0 elsewhere
    weight   f32[total]         R_kk^2, what the squared error of column k weighs
    ahead    f32[total / group, group, group]  the inverse of I + feed inside each group
    damping  f32                what was added to the diagonal; inf: feed is 0
    """

    columns: Integer[Array, " total"]
    feed: Float[Array, "total total"]
    weight: Float[Array, " total"]
    ahead: Float[Array, "groups group group"]
    damping: Float[Array, ""]


@functools.partial(jax.jit, static_argnames=("format", "order", "block"))
def factor(
    moment: Float[Array, "in in"],
    damping: float | jax.Array,
    format: Format,
    *,
    order: str,
    block: int,
) -> Factor:
    """Factors H, with ten times the damping as often as that is not finite."""
    group, _, total = plan(len(moment), format, block)
    diagonal = jnp.diagonal(moment)
    columns = column_order(diagonal, total, group, order, format)
    # Columns that only fill up have no weight: they are treated as inputs that were never active.
    more = total - len(moment)
    diagonal = jnp.pad(diagonal, (0, more))
    live = diagonal > 0
    mean = jnp.where(live, diagonal, 0).sum() / jnp.maximum(live.sum(), 1)
    mean = jnp.where(mean > 0, mean, 1.0)
    # Reversed: the lower factor of what is reversed is the upper one.
    back = columns[::-1]
    h = jnp.pad(moment, (0, more))[back[:, None], back[None]] / mean
    dead = jnp.where(live, 0.0, 1.0)[back]

    def attempt(state):
        tries, damping, _ = state
        damped = h + jnp.diag(dead + damping)
        lower = jnp.linalg.cholesky(damped, symmetrize_input=False)
        return tries + 1, jnp.maximum(damping * 10, 0.01), lower

    def unfinished(state):
        return (state[0] < TRIES) & ~jnp.isfinite(state[2]).all()

    first = (0, jnp.asarray(damping, h.dtype), jnp.full_like(h, jnp.nan))
    tries, following, lower = lax.while_loop(unfinished, attempt, first)
    served = jnp.where(tries == 1, damping, following / 10)
    good = jnp.isfinite(lower).all()
    upper = lower[::-1, ::-1]
    pivots = jnp.diagonal(upper)
    feed = jnp.where(good, jnp.triu(upper, 1) / pivots, 0.0)
    plain = jnp.where(live, diagonal / mean, 1.0)[columns]
    weight = jnp.where(good, pivots**2, plain)
    ahead = inverses(feed, 1 if static(format, order) else group)
    return Factor(columns, feed, weight, ahead, jnp.where(good, served, jnp.inf))


def static(format: Format, order: str) -> bool:
    """Whether the scales of all groups are fitted before any column is rounded."""
    whole, nested = format.group in (None, -1), not isinstance(format.scale, str)
    return whole or nested or isinstance(format.zero, Format) or order == "activation"


def inverses(feed: Float[Array, "total total"], group: int) -> Float[Array, "groups group group"]:
    """(I + feed)^-1 of each group alone: what its columns become once those before are rounded.

    They become W_G + C (I + feed_GG)^-1, C the feedback: the least of |(W - Q) R| over them all.
    """
    at = jnp.arange(len(feed) // group)
    own = feed.reshape(len(at), group, len(at), group)[at, :, at]
    eye = jnp.broadcast_to(jnp.eye(group), own.shape)
    return jax.scipy.linalg.solve_triangular(own + eye, eye, unit_diagonal=True)


def plan(size: int, format: Format, block: int) -> tuple[int, int, int]:
    """(group, or 1 where it is a whole row; columns in a block; columns in all blocks).

    A block is as many whole groups as make about `block` columns.
    """
    group = 1 if format.group in (None, -1) else format.group
    size = grids.padded_size(size, format)
    count = max(1, round(size / max(block, group)))
    width = -(-size // (count * group)) * group
    return group, width, -(-size // width) * width


def column_order(
    diagonal: Float[Array, "in"], total: int, group: int, order: str, format: Format
) -> Integer[Array, " total"]:
    """The column that comes at each place; those that only fill up come last in their group."""
    if order == "none":
        return jnp.arange(total)
    weight = jnp.pad(diagonal, (0, total - len(diagonal)), constant_values=-1)
    if order == "activation" or format.group in (None, -1):
        return jnp.argsort(-weight)
    weight = weight.reshape(-1, group)
    within = jnp.argsort(-weight, axis=1) + jnp.arange(len(weight))[:, None] * group
    return within[jnp.argsort(-weight.max(1))].reshape(-1)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5, 6, 7))
def _rounded(w, known, format, order, block, clip, norm, dtype):
    w = w.astype(jnp.float32)
    found = solve(w, known, format, order=order, block=block, clip=clip, norm=norm)
    return from_codes(*found[:3], format, size=w.shape[1], dtype=dtype)


class Done(NamedTuple):
    """Columns in their order, those to come 0: W - Q, codes, and what is added to weights apart."""

    off: Float[Array, "columns out"]
    codes: Integer[Array, "columns out"]
    spare: Float[Array, "columns out"] | None


def solve(
    w: Float[Array, "out in"],
    known: Factor,
    format: Format,
    *,
    order: str,
    block: int,
    clip: bool,
    norm: float,
    kept: tuple[Any, Any] | None = None,
    apart: Bool[Array, "out in"] | None = None,
) -> tuple[Integer[Array, "out padded"], Any, Any, Float[Array, "out padded"] | None]:
    """(codes from 0 on, scales and zeros as stored, what is added to weights that are apart).

    kept   scales and zeros as stored, where they are known
    apart  weights whose rounding error is returned, in bfloat16, and so no error of theirs
    """
    whole = format.group in (None, -1)
    group, width, total = plan(w.shape[1], format, block)
    size = grids.padded_size(w.shape[1], format)

    def fit(w):
        return clipped(w, format, norm=norm) if clip else grids.fit(w, format)

    columns, feed = known.columns, known.feed

    def ordered(a):  # [out, in] -> [total, out], where a column is one piece of memory
        return jnp.pad(a, ((0, 0), (0, total - a.shape[1]))).T[columns]

    wt = ordered(w)
    marked = None if apart is None else ordered(apart)
    group_of = jnp.zeros(total, jnp.int32) if whole else columns // group

    before_all = kept is not None or static(format, order)
    if before_all:
        if kept is None:
            kept = store(*fit(grids.in_groups(w, format)), format)
        grid = tuple(None if x is None else x.T for x in read(*kept, format))
        rows = len(w)
        grid = tuple(
            None if x is None else _fill(x, 1 if whole else total // group, rows) for x in grid
        )
    else:
        shape = (total // group, w.shape[0])
        grid = (jnp.ones(shape), None if format.zero is None else jnp.zeros(shape))

    def blank(rows):
        zeros = functools.partial(jnp.zeros, (rows, len(w)))
        return Done(zeros(), zeros(jnp.uint8), None if apart is None else zeros(jnp.bfloat16))

    def one_block(k, carry):
        done, grid = carry
        start = k * width
        mine = lax.dynamic_slice_in_dim(wt, start, width)
        before = lax.dynamic_slice_in_dim(feed, start, width, 1)
        here = mine + jnp.matmul(before.T, done.off, precision="highest")
        inner = lax.dynamic_slice_in_dim(before, start, width).T

        def column(i, carry):
            own, grid = carry
            x = here[i] + jnp.matmul(inner[i], own.off, precision="highest")
            scale, zero = (None if g is None else g[group_of[start + i]] for g in grid)
            code, near = (a[:, 0] for a in grids.round_to(x[:, None], scale, zero, format))
            spare = None
            if marked is not None:
                rest = jnp.where(marked[start + i], x - near, 0).astype(jnp.bfloat16)
                spare, near = own.spare.at[i].set(rest), near + rest.astype(jnp.float32)
            off = own.off.at[i].set(mine[i] - near)
            return Done(off, own.codes.at[i].set(code.astype(jnp.uint8)), spare), grid

        def one_group(t, carry):
            own, grid = carry
            first = t * group
            rows = lax.dynamic_slice_in_dim(inner, first, group)
            plain, x = (lax.dynamic_slice_in_dim(a, first, group) for a in (mine, here))
            feedback = x - plain + jnp.matmul(rows, own.off, precision="highest")
            ahead = known.ahead[start // group + t].T
            x = plain + jnp.matmul(ahead, feedback, precision="highest")
            found = read(*store(*fit(x.T[:, None]), format), format)
            at = group_of[start + first]
            grid = tuple(
                None if g is None else g.at[at].set(f[:, 0])
                for g, f in zip(grid, found, strict=True)
            )
            return lax.fori_loop(first, first + group, column, (own, grid))

        step, count = (column, width) if before_all else (one_group, width // group)
        own, grid = lax.fori_loop(0, count, step, (blank(width), grid))
        put = functools.partial(lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
        return jax.tree.map(put, done, own), grid

    done, grid = lax.fori_loop(0, total // width, one_block, (blank(total), grid))
    if not before_all:
        kept = store(*(None if g is None else g[: size // group].T for g in grid), format)
    codes, spare = (
        None if a is None else jnp.zeros_like(a).at[columns].set(a).T[:, :size]
        for a in (done.codes, done.spare)
    )
    return codes, *kept, spare


def _fill(x, groups, rows):
    """Scales [groups or fewer, rows or 1] for all rows, and for groups that only fill up."""
    x = jnp.broadcast_to(x, (len(x), rows))
    return jnp.pad(x, ((0, groups - len(x)), (0, 0)), constant_values=1)
