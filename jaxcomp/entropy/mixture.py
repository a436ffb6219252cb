"""Mixtures of a location-scale family: sum_k w_k F((y - mean_k) / scale_k), learned per channel.

A mixture whose weights a network predicts has no table to choose; `mixed` gives its bits for
training, and coding.build_tables under jit a table per symbol. Cheng, Sun, Takeuchi and Katto,
Learned image compression with discretized Gaussian mixture likelihoods, CVPR 2020.
"""

import math

import jax
import jax.numpy as jnp

from jaxcomp.base import EntropyModel
from jaxcomp.entropy.channelwise import channelwise
from jaxcomp.entropy.gaussian import gaussian_log_mass
from jaxcomp.entropy.interval import LogMass, scaled


def mixture(
    channels: int,
    *,
    components: int = 3,
    log_mass: LogMass = gaussian_log_mass,
    init_scale: float = 10.0,
    **options,
) -> EntropyModel:
    """One mixture per channel, y's last axis, of components with a standardised log_mass.

    params is {"logits", "mean", "log_scale"}, f32[channels, components]; init takes no key: equal
    weights, means spread over +- init_scale. Options as channelwise.
    """
    moved = mixed(log_mass)

    def init(key=None):
        shape = (channels, components)
        spread = jnp.linspace(-1, 1, components) if components > 1 else jnp.zeros(1)
        return {
            "logits": jnp.zeros(shape),
            "mean": jnp.broadcast_to(init_scale * spread, shape),
            # As wide as the means are apart.
            "log_scale": jnp.full(shape, math.log(2 * init_scale / max(components, 2))),
        }

    def of_params(params, lower, upper):
        scale = jnp.exp(params["log_scale"])
        return moved(lower, upper, params["logits"], scale, params["mean"])

    return channelwise(init, of_params, channels, **options)


def mixed(log_mass: LogMass) -> LogMass:
    """log_mass(lower, upper, logits, scale, mean) of mixtures along the last axis of the latter."""
    moved = scaled(log_mass)

    def of_mixture(lower, upper, logits, scale, mean):
        lower, upper = jnp.asarray(lower)[..., None], jnp.asarray(upper)[..., None]
        log_weights = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
        return jax.nn.logsumexp(log_weights + moved(lower, upper, scale, mean), axis=-1)

    return of_mixture
