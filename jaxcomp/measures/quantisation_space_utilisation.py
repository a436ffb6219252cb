"""How much of the space that rounding spans is filled: an ellipsoid in a cube.

Rounding scales each row to the cube [-1/2, 1/2]^d by its largest magnitude, whatever the levels.
Rows that fill that cube use all levels in all dimensions; a channel of outliers leaves the others
near zero, where few levels are.

Hu et al., OstQuant, arXiv:2501.13987, section 3.1 (QSUR). We differ: a row is scaled by itself, as
rounding does, and the volume is taken per dimension, as it is 0 in float32 for any width in use.
"""

import jax.numpy as jnp
from jax.scipy.special import gammaln
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxcomp.base import UnsupportedInput


def quantisation_space_utilisation(x: Float[ArrayLike, "*rows d"]) -> Float[Array, ""]:
    """(volume of the ellipsoid of the scaled rows / volume of the cube)^(1 / d).

    The ellipsoid {z: (z - mean)^T C^-1 (z - mean) <= d}, of the rows' covariance C, holds about
    what a Gaussian would put there; it is larger than the cube where rows lie near the corners. 0
    where the rows lie in a plane, as fewer than d + 1 of them do. Rows of zeros are left out.
    Computed in float32; works under jit and grad.
    """
    if not jnp.ndim(x) or 0 in jnp.shape(x):
        raise UnsupportedInput(
            f"expected rows [..., d] of values, got shape {jnp.shape(x)}; pass a batch of vectors"
        )
    x = jnp.asarray(x, jnp.float32)
    x = x.reshape(-1, x.shape[-1])
    d = x.shape[1]
    largest = jnp.abs(x).max(1, keepdims=True)
    there = largest > 0
    scaled = x / jnp.where(there, 2 * largest, 1.0)
    count = jnp.maximum(there.sum(), 1)
    off = jnp.where(there, scaled - scaled.sum(0) / count, 0.0)
    spread = jnp.linalg.eigvalsh(jnp.matmul(off.T, off, precision="highest") / count)
    least = d * jnp.finfo(jnp.float32).eps * spread.max()  # below it eigenvalues are rounding
    ball = jnp.log(jnp.pi * d) / 2 - gammaln(d / 2 + 1) / d  # of radius sqrt(d), per dimension
    return jnp.exp(ball + jnp.log(jnp.maximum(spread, least)).mean() / 2) * (spread > least).all()
