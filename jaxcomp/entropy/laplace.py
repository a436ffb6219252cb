"""The Laplace distribution, density exp(-|y - mean| / scale) / (2 scale), as an entropy model.

Every interval has a closed form: exp(-a) (1 - exp(-(b - a))) / 2 on one side of the mean, and
1 - exp(a) / 2 - exp(-b) / 2 around it.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxcomp.base import EntropyModel
from jaxcomp.entropy.interval import log_one_minus_exp, mirror
from jaxcomp.entropy.location_scale import location_scale


def laplace(**options) -> EntropyModel:
    """Side: scale > 0, the mean of |y - mean|, and mean. Options as location_scale."""
    return location_scale(laplace_log_mass, **options)


@jax.jit
def laplace_log_mass(
    lower: Float[ArrayLike, "..."], upper: Float[ArrayLike, "..."]
) -> Float[Array, "..."]:
    """log P(lower < Z < upper) of the Laplace distribution with scale 1."""
    a, b = mirror(jnp.asarray(lower, jnp.float32), jnp.asarray(upper, jnp.float32))
    beside = a > 0
    one_side = -jnp.where(beside, a, 0.0) + log_one_minus_exp(jnp.where(beside, b - a, 1.0))
    around = jnp.log(-jnp.expm1(jnp.where(beside, -1.0, a)) - jnp.expm1(-jnp.where(beside, 1.0, b)))
    return jnp.where(beside, one_side, around) - math.log(2.0)
