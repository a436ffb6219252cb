"""Soft rounding: smooth, the identity for alpha -> 0 and rounding for alpha -> infinity.

    s(x) = m + tanh(alpha r) / (2 tanh(alpha / 2)),   m = floor(x) + 1/2,   r = x - m

Its inverse, and the mean of what was soft-rounded given the noisy result, which is what a decoder
should use. Agustsson and Theis, Universally quantized neural compression, NeurIPS 2020, section
4.1. Where the inverse needs atanh(2 tanh(alpha / 2) t) near 1 we take the log of what is left
to 1, computed by itself, so that it and its slope stay finite at integers.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

# Below this the map is the identity to float32 precision, and its formula is 0 / 0 in the limit.
LEAST_ALPHA = 1e-3


def soft_round(
    x: Float[ArrayLike, "*shape"], alpha: Float[ArrayLike, "..."]
) -> Float[Array, "*shape"]:
    """s(x), increasing in x, equal to x at the integers and half-integers."""
    bounded = jnp.maximum(alpha, LEAST_ALPHA)
    middle = jnp.floor(x) + 0.5
    y = middle + jnp.tanh(bounded * (x - middle)) / (2 * jnp.tanh(bounded / 2))
    return jnp.where(alpha < LEAST_ALPHA, x, y)


def soft_round_inverse(
    y: Float[ArrayLike, "*shape"], alpha: Float[ArrayLike, "..."]
) -> Float[Array, "*shape"]:
    """The x with s(x) = y."""
    bounded = jnp.maximum(alpha, LEAST_ALPHA)
    middle = jnp.floor(y) + 0.5
    t = y - middle
    gap, slope = 2 * jax.nn.sigmoid(-bounded), 2 * jnp.tanh(bounded / 2)  # gap = 1 - slope / 2
    r = jnp.log((gap + slope * (0.5 + t)) / (gap + slope * (0.5 - t))) / (2 * bounded)
    return jnp.where(alpha < LEAST_ALPHA, y, middle + r)


def soft_round_conditional_mean(
    y: Float[ArrayLike, "*shape"], alpha: Float[ArrayLike, "..."]
) -> Float[Array, "*shape"]:
    """E[X | s(X) + U = y], U uniform on [-1/2, 1/2) and X taken as uniform near y."""
    return soft_round_inverse(jnp.asarray(y) - 0.5, alpha) + 0.5
