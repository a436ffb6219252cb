"""Deep factorized density: a cumulative distribution learned per channel, of any shape.

    F(x) = sigmoid(f_K(... f_1(x))),   f_k(x) = g_k(softplus(H_k) x + b_k),
    g_k(x) = x + tanh(a_k) * tanh(x),  g_K(x) = x

Every f_k increases, so F does. With logits l and u of the two ends of an interval its mass is
sigmoid(u) sigmoid(-l) (1 - exp(l - u)), which cancels nowhere. Balle, Minnen, Singh, Hwang and
Johnston, Variational image compression with a scale hyperprior, ICLR 2018, appendix 6.1.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcomp.base import EntropyModel
from jaxcomp.entropy.channelwise import channelwise
from jaxcomp.entropy.interval import log_one_minus_exp

# Logits of neighbours that float32 cannot tell apart: the mass of no interval is smaller.
LEAST_STEP = 1e-12


def factorized(
    channels: int, *, filters: tuple[int, ...] = (3, 3, 3), init_scale: float = 10.0, **options
) -> EntropyModel:
    """One density per channel, y's last axis. Options as channelwise.

    filters: widths of the hidden layers; init_scale: about how far the density reaches at first.
    init(key) draws the biases, from jax.random.key(0) without a key. params is
    {"matrices", "biases", "factors"}, tuples of f32[channels, out, in], [channels, out, 1], and
    again [channels, out, 1], without one for the last layer.
    """
    widths = (1, *filters, 1)
    layers = len(filters) + 1

    def init(key=None):
        key = jax.random.key(0) if key is None else key
        # Layers share the slope 1 / init_scale; softplus undoes log(expm1).
        slopes = [init_scale ** (-1 / layers) / width for width in widths[1:]]
        matrices = tuple(
            jnp.full((channels, out, into), math.log(math.expm1(slope)), jnp.float32)
            for slope, into, out in zip(slopes, widths[:-1], widths[1:], strict=True)
        )
        biases = tuple(
            jax.random.uniform(k, (channels, width, 1), jnp.float32, -0.5, 0.5)
            for k, width in zip(jax.random.split(key, layers), widths[1:], strict=True)
        )
        factors = tuple(jnp.zeros((channels, width, 1), jnp.float32) for width in filters)
        return {"matrices": matrices, "biases": biases, "factors": factors}

    return channelwise(init, factorized_log_mass, channels, **options)


@jax.jit
def factorized_log_mass(
    params: dict, lower: Float[Array, "... channels"], upper: Float[Array, "... channels"]
) -> Float[Array, "... channels"]:
    """log P(lower < X < upper) for each channel."""
    low, high = _logits(params, lower), _logits(params, upper)
    step = jnp.maximum(high - low, LEAST_STEP)
    return jax.nn.log_sigmoid(high) + jax.nn.log_sigmoid(-low) + log_one_minus_exp(step)


def _logits(params, x):
    """The logit of F at each x, infinite for infinite x."""
    finite = jnp.isfinite(x)
    hidden = jnp.where(finite, x, 0.0)[..., None, :]  # [..., in, c]
    last = len(params["matrices"]) - 1
    for layer, (matrix, bias) in enumerate(zip(params["matrices"], params["biases"], strict=True)):
        # Highest precision: differences of logits matter, and some devices would round products.
        hidden = jnp.einsum(
            "coi,...ic->...oc", jax.nn.softplus(matrix), hidden, precision="highest"
        )
        hidden = hidden + bias[..., 0].T
        if layer < last:
            factor = jnp.tanh(params["factors"][layer])[..., 0].T  # [out, c]
            hidden = hidden + factor * jnp.tanh(hidden)
    return jnp.where(finite, hidden[..., 0, :], x)
