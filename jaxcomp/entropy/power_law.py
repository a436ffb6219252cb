"""Power laws: P(|X| > x) = (1 + x / scale)**-exponent, learned per channel.

Sparse values with rare large ones: a value costs about (exponent + 1) log2 |x| bits, as in Elias
gamma and exponential Golomb codes, for which the exponent is 1. TFC's PowerLawEntropyModel has the
penalty log(1 + |x| / alpha) alone, which no distribution belongs to (its exponent would be 0).
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxcomp.base import EntropyModel
from jaxcomp.entropy.channelwise import channelwise
from jaxcomp.entropy.interval import log_one_minus_exp, mirror, scaled


def power_law(channels: int, *, init_scale: float = 1.0, **options) -> EntropyModel:
    """One density per channel, y's last axis. Options as channelwise.

    params is {"log_scale", "log_exponent"}, f32[channels]; init takes no key, exponents start at 1.
    """

    def init(key=None):
        return {
            "log_scale": jnp.full(channels, math.log(init_scale)),
            "log_exponent": jnp.zeros(channels),
        }

    def log_mass(params, lower, upper):
        scale, exponent = jnp.exp(params["log_scale"]), jnp.exp(params["log_exponent"])
        return scaled(power_law_log_mass)(lower, upper, scale, 0.0, exponent)

    return channelwise(init, log_mass, channels, **options)


@jax.jit
def power_law_log_mass(
    lower: Float[ArrayLike, "..."],
    upper: Float[ArrayLike, "..."],
    exponent: Float[ArrayLike, "..."],
) -> Float[Array, "..."]:
    """log P(lower < Z < upper) of the symmetric power law of scale 1."""
    a, b = mirror(jnp.asarray(lower, jnp.float32), jnp.asarray(upper, jnp.float32))
    beside = a > 0
    near, width = jnp.where(beside, a, 0.0), jnp.where(beside, b - a, 1.0)
    tail = -exponent * jnp.log1p(near)
    one_side = tail + log_one_minus_exp(exponent * jnp.log1p(width / (1 + near)))
    around = jnp.log(
        -jnp.expm1(-exponent * jnp.log1p(jnp.where(beside, 1.0, -a)))
        - jnp.expm1(-exponent * jnp.log1p(jnp.where(beside, 1.0, b)))
    )
    return jnp.where(beside, one_side, around) - math.log(2.0)


def power_law_penalty(
    y: Float[ArrayLike, "*shape"], alpha: Float[ArrayLike, "..."] = 0.01
) -> Float[Array, "*shape"]:
    """log(1 + |y| / alpha), in nats: sparsity without parameters, as tensorflow-compression's."""
    return jnp.log1p(jnp.abs(jnp.asarray(y, jnp.float32)) / alpha)
