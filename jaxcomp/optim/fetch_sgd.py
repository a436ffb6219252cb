"""FetchSGD: momentum and what was not sent live in the sketch, so that senders keep nothing.

    S = 1/N sum_i R g_i,     U <- rho U + S,     E <- E + U,
    out = the k largest of what E stands for,    E <- E - R out,     U <- 0 where R out is not

R is one count sketch for the whole run: rows of buckets, each with a hash and signs; an entry is
read as the median over rows, which large entries survive though all share buckets. It is linear,
so that the sum over senders is an all-reduce of the sketch, whatever k is; what is taken out all
find by themselves. Senders that take part once, and never again, owe nothing. Rothchild et al.,
FetchSGD, ICML 2020, algorithm 1; U is cleared as in their section 4 (momentum factor masking). We
differ: the learning rate comes behind, so that E is in units of gradients; and every leaf has a
sketch of its own, where theirs is of all parameters together. Where large entries share buckets too
often E grows: of 1000 entries, 10 sent a step, 300 buckets in 3 rows did, in 5 or 7 rows not.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float32, Int32

from jaxcomp.base import UnsupportedInput
from jaxcomp.optim.compressed_mean import dense_mean
from jaxcomp.optim.count_sketch import hashed
from jaxcomp.optim.exchange import dense_nbytes, reduce_nbytes, size_of
from jaxcomp.optim.leaves import pick
from jaxcomp.optim.log import Log, start, step
from jaxcomp.optim.places import count_of
from jaxcomp.optim.random import fold
from jaxcomp.optim.sharded import check_shapes
from jaxcomp.optim.wire import all_finite
from jaxcomp.tree import Where, path_text

HASHES = (0x464554, 0x434853)  # the key of R, with the seed and the numbers of leaf and row


class FetchState(NamedTuple):
    """The same for all senders. key u32[2], of R; log; momentum and error: for each leaf U and E,
    f32[rows, buckets], or for leaves that go as they are U like the leaf and ().
    """

    key: jax.Array
    log: Log
    momentum: tuple[Any, ...]
    error: tuple[Any, ...]


def fetch_sgd(
    axis_name: str,
    *,
    density: float = 0.01,
    buckets: float = 0.1,
    rows: int = 5,
    momentum: float = 0.9,
    where: Where | None = None,
    seed: int = 0,
) -> optax.GradientTransformation:
    """Gradients of senders along axis_name to what sgd without momentum subtracts.

    density: k of the entries; buckets: of all rows together, for each entry; rows: odd. Leaves that
    where(path, leaf) leaves out, and those with no more entries than buckets, go as they are, with
    their momentum. Senders keep nothing of their own. Gradients that are not finite make updates
    NaN and leave the state.
    """
    count_of(1, density)
    count_of(1, buckets)
    if type(rows) is not int or rows < 1 or rows % 2 == 0 or not 0 <= momentum < 1:
        raise UnsupportedInput(
            f"expected rows, an odd number, and 0 <= momentum < 1, got {rows!r} and {momentum}; "
            "5 and 0.9, say"
        )
    whole = dense_mean(axis_name)

    def width_of(path, leaf):  # of a row; None for what goes as it is
        width = -(-count_of(leaf.size, buckets) // rows)
        chosen = where is None or where(path_text(path), leaf)
        return width if chosen and rows * width < leaf.size else None

    def widths(tree):
        return [width_of(*pair) for pair in jax.tree_util.tree_flatten_with_path(tree)[0]]

    def init(params):
        shapes = [
            jnp.shape(x) if width is None else (rows, width)
            for x, width in zip(jax.tree.leaves(params), widths(params), strict=True)
        ]
        errors = [() if width is None else jnp.zeros((rows, width)) for width in widths(params)]
        key = fold(np.array(HASHES, np.uint32), seed)
        return FetchState(key, start(), tuple(jnp.zeros(s) for s in shapes), tuple(errors))

    def update(updates, state, params=None):
        leaves, structure = jax.tree.flatten(updates)
        if params is not None:
            check_shapes(leaves, params)
        found, sent, dense = [], 0, 0
        for i, (g, width) in enumerate(zip(leaves, widths(updates), strict=True)):
            dense += dense_nbytes(g, (axis_name,))
            before = state.momentum[i], state.error[i]
            if width is None:
                sent += whole.nbytes(g)
                _, mean, _ = whole.mean(state.key, g, whole.init(g))
                u = momentum * before[0] + mean
                found.append((u, u, ()))
                continue
            sent += reduce_nbytes(4 * rows * width, size_of(axis_name))
            where_to = _hashes(fold(state.key, i), rows, g.size, width)
            flat = g.astype(jnp.float32).reshape(-1)
            total = lax.pmean(sketched(flat, *where_to, width), axis_name)
            u = momentum * before[0] + total
            e = before[1] + u
            guess = read(e, *where_to)
            _, places = lax.top_k(jnp.abs(guess), count_of(g.size, density))
            out = jnp.zeros(g.size).at[places].set(guess[places])
            taken = sketched(out, *where_to, width)
            out = jnp.where(all_finite(total), out, jnp.nan).reshape(g.shape)
            found.append((out, jnp.where(taken == 0, u, 0), e - taken))
        outs = [out for out, _, _ in found]
        finite = all_finite(*outs) if outs else jnp.array(True)
        left = [jnp.square(e).sum() / rows for _, _, e in found if not isinstance(e, tuple)]
        new = tuple(u for _, u, _ in found), tuple(e for _, _, e in found)
        kept = pick(finite, new, (state.momentum, state.error))
        log = step(state.log, finite, jnp.sqrt(sum(left, jnp.zeros(()))), sent, dense)
        outs = [out.astype(g.dtype) for out, g in zip(outs, leaves, strict=True)]
        return structure.unflatten(outs), FetchState(state.key, log, *kept)

    return optax.GradientTransformation(init, update)


def sketched(
    x: Float32[Array, " size"],
    bucket: Int32[Array, "rows size"],
    sign: Float32[Array, "rows size"],
    width: int,
) -> Float32[Array, "rows width"]:
    """R x."""

    def row(bucket, sign):
        return jnp.zeros(width, jnp.float32).at[bucket].add(sign * x)

    return jax.vmap(row)(bucket, sign)


def read(
    sketch: Float32[Array, "rows width"],
    bucket: Int32[Array, "rows size"],
    sign: Float32[Array, "rows size"],
) -> Float32[Array, " size"]:
    """What each entry is in the median of the rows."""
    return jnp.median(sign * jnp.take_along_axis(sketch, bucket, 1), 0)


def _hashes(key, rows, size, width):
    return jax.vmap(lambda key: hashed(key, size, width))(fold(key, jnp.arange(rows)))
