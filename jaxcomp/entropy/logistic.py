"""The logistic distribution, F(y) = sigmoid((y - mean) / scale), as an entropy model.

    F(b) - F(a) = sigmoid(b) sigmoid(-a) (1 - exp(-(b - a)))

holds everywhere and cancels nowhere.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxcomp.base import EntropyModel
from jaxcomp.entropy.interval import log_one_minus_exp
from jaxcomp.entropy.location_scale import location_scale


def logistic(**options) -> EntropyModel:
    """Side: scale > 0, sqrt(3) / pi standard deviations, and mean. Options as location_scale."""
    return location_scale(logistic_log_mass, **options)


@jax.jit
def logistic_log_mass(
    lower: Float[ArrayLike, "..."], upper: Float[ArrayLike, "..."]
) -> Float[Array, "..."]:
    """log P(lower < Z < upper) of the logistic distribution with scale 1."""
    a, b = jnp.asarray(lower, jnp.float32), jnp.asarray(upper, jnp.float32)
    return jax.nn.log_sigmoid(b) + jax.nn.log_sigmoid(-a) + log_one_minus_exp(b - a)
