"""LoRC: what rounding left over, at low rank: W ~ Q + B A with B A nearest to W - Q.

    min |W - Q - B A|_F,   B = the `rank` first left singular vectors of W - Q,  A = B^T (W - Q)

Yao et al., ZeroQuant-V2, arXiv:2303.08302, section 5. We differ: the singular values are all in A,
where each row has a scale of its own, and B is orthonormal.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcomp.base import Transform, UnsupportedInput
from jaxcomp.formats.format import Format
from jaxcomp.formats.integer import INT8
from jaxcomp.formats.layout import to_matrix
from jaxcomp.formats.leaf import Leaf
from jaxcomp.formats.low_rank import low_rank
from jaxcomp.formats.sum import Sum
from jaxcomp.weights.basis import as_method


def lorc(method: Transform | Format, rank: int = 8, *, factors: Format | Any = INT8) -> Transform:
    """Needs what the method inside needs. factors: a Format, or a dtype as jnp.bfloat16."""
    method = as_method(method)
    check_rank(rank)

    def compress(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        inner = method.compress(matrix, statistics, (-1,))
        return corrected(inner, matrix, None, rank, factors).placed(place)

    return Transform(compress, method.statistic, f"lorc {rank} {method.name}")


def check_rank(rank: int) -> None:
    if rank < 1:
        raise UnsupportedInput(f"expected rank >= 1, got {rank}; 4 to 128 are usual")


def corrected(inner: Leaf, w: jax.Array, moment: Any, rank: int, factors: Any) -> Sum:
    """inner, a leaf of the matrix w, plus what is missing at a rank of at most `rank`."""
    return Sum((inner, _correction(inner, w, moment, min(rank, *w.shape), factors)))


@functools.partial(jax.jit, static_argnums=(3, 4))
def _correction(inner, w, moment, rank, factors):
    low = thin(w.astype(jnp.float32) - inner.dense().astype(jnp.float32), moment, rank)
    return low_rank(*low, factors=factors, dtype=inner.dtype)


def thin(
    residual: Float[Array, "out in"], moment: Float[Array, "in in"] | None, rank: int
) -> tuple[Float[Array, "out rank"], Float[Array, "rank in"]]:
    """(B, A) of least tr((D - B A) M (D - B A)^T); M = I without a moment. B is orthonormal.

    For M = S S^T the best B A S is B B^T D S, with B the first left singular vectors of D S: the
    first eigenvectors of D M D^T. Then B A = B B^T D, and neither S nor its inverse is needed. With
    more outputs than inputs B is found from the right singular vectors, [in, in], and S is.
    """
    dot = functools.partial(jnp.matmul, precision="highest")
    if residual.shape[0] <= residual.shape[1]:
        moved = residual if moment is None else dot(residual, moment)
        outer = _first(dot(moved, residual.T), rank)
    else:
        moved = residual if moment is None else dot(residual, _root(moment))
        outer = _orthonormal(dot(moved, _first(dot(moved.T, moved), rank)))
    return outer, dot(outer.T, residual)


def _first(square: Float[Array, "n n"], rank: int) -> Float[Array, "n rank"]:
    """Eigenvectors of the largest eigenvalues, first of all the largest."""
    largest = jnp.maximum(jnp.abs(square).max(), jnp.finfo(jnp.float32).tiny)
    return jnp.linalg.eigh(square / largest)[1][:, ::-1][:, :rank]


def _root(moment: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """S with S S^T = moment; eigenvalues that float32 made negative are 0."""
    values, vectors = jnp.linalg.eigh(moment)
    return vectors * jnp.sqrt(jnp.maximum(values, 0))


def _orthonormal(columns: Float[Array, "n rank"]) -> Float[Array, "n rank"]:
    return jnp.linalg.qr(columns)[0]
