"""PowerSGD: two thin factors of the mean, each an all-reduce, found by one step of power iteration.

    P = mean_i M_i Q,   P <- orthonormal columns,   S_i = M_i^T P,   mean = P (mean_i S_i)^T,
    Q <- mean_i S_i

M_i is a gradient as a matrix [m, n], Q of n x r starts where the last step ended: over steps that
is subspace iteration, and P comes to the largest singular vectors of the mean. Everything is linear
in M_i, so that factors add up on the way, in any tree of links; a mean of rank r or less comes out
exactly, whatever rank the senders' own have. Vogels, Karimireddy, Jaggi, PowerSGD, NeurIPS 2019,
algorithms 1 and 2. We differ: a sender keeps M_i - P S_i^T, where the paper keeps M_i - mean: both
have one mean, and this is a projection, never longer than M_i. Columns of Q that vanish begin
again at random; in the paper a gradient of zeros would end learning.

Of gradients [48, 64] of rank 4 and noise, of eight senders, rank 4 loses 4 % in length; the largest
entries in as many bytes, 83 %. Memories of senders with unlike data drift apart, by as much in each
step, though their mean stays: after 60 steps of random [12, 10] they were 20 times as long as in
ef21, where they do not. In hierarchical() an exchange sees vectors, which go as they are: give this
one both axes. Layers that are stacked along an axis are rows of one matrix, unless error_feedback
is told of layers.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float32

from jaxcomp.base import Exchange, UnsupportedInput
from jaxcomp.optim.compressed_mean import dense_over
from jaxcomp.optim.exchange import reduce_nbytes, size_of
from jaxcomp.optim.random import fold, uniform

START = (0x505753, 0x474421)  # of Q, on all senders alike; any key
# A column of which projections leave less than this share is a sum of those before, to rounding.
DEPENDENT = 1e-6
FIRST, SECOND = 1, 2  # beside the key: of the two factors
LEAST = 2.0**-120  # its reciprocal is a float; columns of less count as zeros

dot = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)  # not in bfloat16 on a TPU


def power_sgd(
    rank: int,
    axis_name: str | Sequence[str],
    *,
    dtype: DTypeLike = jnp.float32,
    factors: Exchange | None = None,
) -> Exchange:
    """rank r: factors of (m + n) r numbers go for m n entries. axis_name: several, in a tuple.

    dtype: of the numbers, float32 or bfloat16, for twice the rank in the same bytes. What that
    rounds of a sender's own S_i counts as not sent; what sums on the way round is lost.
    factors: another exchange over these axes in place of that all-reduce, for the factors [r, m]
    and [r, n], whose rows differ in size; one that keeps nothing, as each step has factors of its
    own: compressed_mean(quantized(block=32), axis, remembers=False), say, for nearly four times
    the rank in the same bytes. Of a small transformer, rank 11 so lost 0.1 % against SGD, rank 5 in
    bfloat16 1.2 %.

    An array of more than two axes is a matrix of the leading by the trailing ones, parted where
    m + n is least, the first of equals: of a convolution [h, w, in, out], h w in by out. Arrays of
    fewer axes, and those of which factors in dtype are no fewer bytes, go as they are, as in
    dense_mean. The state is Q f32[n, r], with factors (Q, their state for P, and for S_i); feedback
    around this keeps what was not sent. Of gradients that are not finite the mean is not, and the
    state stays.
    """
    axes = (axis_name,) if isinstance(axis_name, str) else tuple(axis_name)
    if type(rank) is not int or rank < 1:
        raise UnsupportedInput(f"expected a rank of at least 1, got {rank!r}; 2 or 4 is usual")
    if not axes or len(set(axes)) < len(axes):
        raise UnsupportedInput(f"expected names of axes, each once, got {axis_name!r}; 'data', say")
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise UnsupportedInput(
            f"expected dtype float32 or bfloat16, which has its range, got {dtype.name}"
        )
    if factors is not None and (factors.axes != axes or dtype != jnp.float32):
        raise UnsupportedInput(
            f"expected factors over {axes}, and no dtype beside them, got {factors.axes} and "
            f"{dtype.name}; name the same axes"
        )
    whole = dense_over(axes)
    add_up = _all_reduce(axes, dtype) if factors is None else _turned(factors)

    def shapes_of(x):  # [(m, r), (n, r)], or None where x goes as it is
        found = folded(x.shape)
        if found is None:
            return None
        r = min(rank, *found)
        fewer = dtype.itemsize * sum(found) * r < math.prod(found) * x.dtype.itemsize
        return [(size, r) for size in found] if fewer else None

    def init(x):
        shapes = shapes_of(x)
        if shapes is None:
            return whole.init(x)
        q = started(np.array(START, np.uint32), shapes[1])
        return q if factors is None else (q, *map(add_up.init, map(thin, shapes)))

    def mean(key, x, state):
        shapes = shapes_of(x)
        if shapes is None:
            return whole.mean(key, x, state)
        matrix = x.astype(jnp.float32).reshape(shapes[0][0], shapes[1][0])
        old, *states = (state, (), ()) if factors is None else state
        _, p, first = add_up.mean(fold(key, FIRST), dot(matrix, old), states[0])  # [m, r]
        p = orthonormal(p)
        own, q, second = add_up.mean(fold(key, SECOND), dot(matrix.T, p), states[1])  # [n, r]
        sent, out = dot(p, own.T).reshape(x.shape), dot(p, q.T).reshape(x.shape)
        new = warmed(key, q, old)
        if factors is None:
            return sent, out, new
        good = jnp.isfinite(q).all()
        kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), [first, second], states)
        return sent, out, (new, *kept)

    def nbytes(x):
        shapes = shapes_of(x)
        return whole.nbytes(x) if shapes is None else sum(map(add_up.nbytes, map(thin, shapes)))

    return Exchange(init, mean, nbytes, axes, f"power_sgd {rank}")


def thin(shape: tuple[int, int]) -> jax.ShapeDtypeStruct:
    """A factor."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _all_reduce(axes, dtype):
    """Of numbers of the dtype: an Exchange without a state."""

    def mean(key, x, state):
        narrow = x.astype(dtype)
        return narrow.astype(jnp.float32), lax.pmean(narrow, axes).astype(jnp.float32), state

    def nbytes(x):
        return reduce_nbytes(dtype.itemsize * x.size, size_of(axes))

    return Exchange(lambda x: (), mean, nbytes, axes, "all-reduce")


def _turned(exchange):
    """The exchange, of transposed matrices: a column's entries lie beside each other."""

    def mean(key, x, state):
        sent, out, state = exchange.mean(key, x.T, state)
        return sent.T, out.T, state

    def turn(function):
        return lambda x: function(thin(x.shape[::-1]))

    return exchange._replace(init=turn(exchange.init), mean=mean, nbytes=turn(exchange.nbytes))


def folded(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """(m, n) of the matrix that an array is taken for; None below two axes, or without entries."""
    if len(shape) < 2 or not math.prod(shape):
        return None
    parted = [(math.prod(shape[:i]), math.prod(shape[i:])) for i in range(1, len(shape))]
    return min(parted, key=sum)


def started(key: ArrayLike, shape: tuple[int, int]) -> Float32[Array, "n r"]:
    """Random columns in (-1, 1), the same for all who have the key."""
    return 2 * uniform(jnp.asarray(key), shape) - 1


def orthonormal(p: Float32[Array, "m r"]) -> Float32[Array, "m r"]:
    """Gram-Schmidt, each column twice; one that depends on those before becomes 0.

    NaN and infinity make NaN.
    """
    most = jnp.abs(p).max(0)  # so that no square overflows
    p = p / jnp.where(most < LEAST, 1, most)

    def column(i, out):
        v = p[:, i]
        size = jnp.square(v).sum()
        for _ in range(2):
            v = v - dot(out, dot(out.T, v))
        left = jnp.square(v).sum()
        v = jnp.where(left <= DEPENDENT**2 * size, 0, v / jnp.sqrt(jnp.where(left == 0, 1, left)))
        return out.at[:, i].set(v)

    return lax.fori_loop(0, p.shape[1], column, jnp.zeros_like(p))


def warmed(
    key: ArrayLike, q: Float32[Array, "n r"], old: Float32[Array, "n r"]
) -> Float32[Array, "n r"]:
    """The next Q: lengths of columns do not matter, so they are kept where squares are floats."""
    most = jnp.abs(q).max(0)
    new = jnp.where(most < LEAST, started(key, q.shape), q / jnp.where(most < LEAST, 1, most))
    return jnp.where(jnp.isfinite(q).all(), new, old)
