"""The normal distribution, as an entropy model whose scale (and mean) a network predicts.

    bits(y) = -log2(Phi((y - mean + 1/2) / scale) - Phi((y - mean - 1/2) / scale))

Balle, Minnen, Singh, Hwang and Johnston, Variational image compression with a scale hyperprior,
ICLR 2018, equation 7; the mean: Minnen, Balle and Toderici, NeurIPS 2018.
"""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from jaxcomp.base import EntropyModel
from jaxcomp.entropy.interval import symmetric_log_mass
from jaxcomp.entropy.location_scale import location_scale

LOG_SQRT_TWO_PI = 0.5 * math.log(2 * math.pi)
# From here on a continued fraction of this depth is exact to float32; before, erfc is.
FAR, DEPTH = 8.0, 4


def gaussian(**options) -> EntropyModel:
    """Side: scale > 0, the standard deviation, and mean. Options as location_scale."""
    return location_scale(gaussian_log_mass, **options)


def gaussian_log_mass(
    lower: Float[ArrayLike, "..."], upper: Float[ArrayLike, "..."]
) -> Float[Array, "..."]:
    """log P(lower < Z < upper) of the standard normal distribution."""
    return _log_mass(jnp.asarray(lower, jnp.float32), jnp.asarray(upper, jnp.float32))


def _log_tail(z):
    """log P(Z > z) for z >= 0; its slope stays right where exp(log density - itself) would not."""
    far = z > FAR
    x = jnp.where(far, z, FAR)
    fraction = x
    for k in reversed(range(1, DEPTH + 1)):
        fraction = x + k / fraction
    beyond = -0.5 * x * x - LOG_SQRT_TWO_PI - jnp.log(fraction)
    near = jnp.log(lax.erfc(jnp.where(far, 0.0, z) * math.sqrt(0.5))) - math.log(2.0)
    return jnp.where(far, beyond, near)


def _log_density(z):
    return -0.5 * z * z - LOG_SQRT_TWO_PI


_log_mass = symmetric_log_mass(_log_tail, _log_density)
