"""Fourier basis density: a positive Fourier series on (-1, 1), stretched over the line.

    p(t) = |sum_n a_n exp(i pi n t)|**2 / Z,   t = tanh((x - mean) / scale)

The squared modulus is a Fourier series whose coefficients c are the autocorrelation of a, so that
Z = 2 c_0 and the mass of an interval are closed forms. A flat density on (-1, 1) is a logistic one
on the line; we write each mass as the logistic one times the mean of the series over the interval,
which is exact however far out, and mix in a little of the plain logistic density, which keeps bits
finite where the series touches zero. De la Fuente, Singh and Balle, Fourier basis density model,
PCS 2024.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcomp.base import EntropyModel
from jaxcomp.entropy.channelwise import channelwise
from jaxcomp.entropy.logistic import logistic_log_mass

FLAT = 1e-3  # the share of the logistic density: at most 10 bits more than it, 0.0014 bits less


def fourier(
    channels: int, *, frequencies: int = 16, init_scale: float = 10.0, **options
) -> EntropyModel:
    """One density per channel, y's last axis. Options as channelwise.

    init(key) draws small coefficients, from jax.random.key(0) without a key. params is
    {"real", "imaginary"} f32[channels, frequencies + 1] and {"mean", "log_scale"} f32[channels].
    """

    def init(key=None):
        key = jax.random.key(0) if key is None else key
        # Small, so that the density starts near the logistic one of scale init_scale / 2.
        real, imaginary = 0.01 * jax.random.normal(key, (2, channels, frequencies + 1))
        return {
            "real": real.at[:, 0].add(1.0),
            "imaginary": imaginary,
            "mean": jnp.zeros(channels),
            "log_scale": jnp.full(channels, math.log(init_scale)),
        }

    return channelwise(init, fourier_log_mass, channels, **options)


@jax.jit
def fourier_log_mass(
    params: dict, lower: Float[Array, "... channels"], upper: Float[Array, "... channels"]
) -> Float[Array, "... channels"]:
    """log P(lower < X < upper) for each channel."""
    scale = jnp.exp(params["log_scale"])
    low, high = (lower - params["mean"]) / scale, (upper - params["mean"]) / scale
    flat = logistic_log_mass(2 * low, 2 * high)
    middle = (jnp.tanh(low) + jnp.tanh(high)) / 2
    real, imaginary = _autocorrelation(params["real"], params["imaginary"])
    n = jnp.arange(1, real.shape[-1])
    angle = jnp.pi * n * middle[..., None]  # [..., channels, n]
    wave = (real[:, 1:] * jnp.cos(angle) - imaginary[:, 1:] * jnp.sin(angle)) / real[:, :1]
    # The mean of a wave over an interval of width 2 exp(flat): sinc is sin(pi x) / (pi x).
    mean = 1 + 2 * (wave * jnp.sinc(n * jnp.exp(flat)[..., None])).sum(-1)
    return flat + jnp.log((1 - FLAT) * jnp.maximum(mean, 0.0) + FLAT)


def _autocorrelation(real, imaginary):
    """c_n = sum_k a_(k + n) conj(a_k), n >= 0: the inverse transform of the squared modulus."""
    terms = real.shape[-1]
    spectrum = jnp.fft.fft(jax.lax.complex(real, imaginary), 2 * terms)
    power = spectrum.real**2 + spectrum.imag**2
    c = jnp.fft.ifft(power)[..., :terms]
    return c.real, c.imag
