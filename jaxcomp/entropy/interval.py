"""The log of the probability of an interval, finite and differentiable however far in a tail.

A distribution is a function log_mass(lower, upper, *parameters): the natural log of
P(lower < X < upper), in float32. F(upper) - F(lower) is not that: it cancels. Instead

    far out        log S(a) + log(1 - S(b) / S(a)), with S the tail that both ends are in
    around 0       log(1 - S(-a) - S(b))
    a short one    three-point Gauss-Legendre quadrature of the density, as S(a) ~ S(b) cancel too

The mass of the unit interval around y is the density at y of X plus uniform noise, which is what
training with noise needs, and the probability of the integer y, which is what coding needs: Balle,
Laparra and Simoncelli, End-to-end optimized image compression, ICLR 2017, section 3.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LogMass = Callable[..., Array]
# Below this width times 1 + |position|, quadrature is exact to float32 and differences are not.
SHORT = 0.5
NODES = (-math.sqrt(0.6), 0.0, math.sqrt(0.6))  # Gauss-Legendre, order 6
LOG_QUARTER = math.log(0.25)
LOG_WEIGHTS = (math.log(5 / 18), math.log(8 / 18), math.log(5 / 18))


def symmetric_log_mass(
    log_tail: Callable[..., Array], log_density: Callable[..., Array]
) -> LogMass:
    """log_mass(lower, upper) of a density symmetric around 0.

    log_tail(z) is log P(X > z) for z >= 0, log_density(z) the log of its negative slope.
    """

    def log_mass(lower, upper):
        a, b = mirror(lower, upper)
        width = b - a
        short = width * (1 + jnp.abs(a)) < SHORT
        # Each branch sees its own intervals and harmless ones: no gradient passes through the rest.
        left, half = jnp.where(short, a, 0.0), jnp.where(short, width, 1.0) / 2
        at = jnp.stack([left + half * (1 + node) for node in NODES], axis=-1)
        terms = log_density(at) + jnp.array(LOG_WEIGHTS, jnp.float32)
        quadrature = jnp.log(2 * half) + jax.nn.logsumexp(terms, axis=-1)
        # One call for both ends: half the program.
        ends = jnp.stack([jnp.where(short, 1.0, jnp.abs(a)), jnp.where(short, 2.0, b)])
        log_a, log_b = log_tail(ends)
        far = (a > 0) & ~short
        beside = log_a + log_one_minus_exp(jnp.where(far, log_a - log_b, 1.0))
        # Twice 1/4 where it is not looked at.
        tails = [jnp.exp(jnp.where(far | short, LOG_QUARTER, x)) for x in (log_a, log_b)]
        around = jnp.log1p(-tails[0] - tails[1])
        return jnp.where(short, quadrature, jnp.where(far, beside, around))

    return jax.jit(log_mass)


def mirror(
    lower: Float[Array, "*shape"], upper: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """The interval, or its mirror image, whichever has its middle at or above 0."""
    left = lower + upper < 0
    return jnp.where(left, -upper, lower), jnp.where(left, -lower, upper)


def log_one_minus_exp(x: Float[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
    """log(1 - exp(-x)) for x > 0, infinity included; accurate at both ends."""
    small = x < math.log(2.0)
    near = jnp.log(-jnp.expm1(-jnp.where(small, x, 1.0)))
    return jnp.where(small, near, jnp.log1p(-jnp.exp(-jnp.where(small, 1.0, x))))


def scaled(log_mass: LogMass) -> LogMass:
    """log_mass(lower, upper, scale, mean, ...) of mean + scale * X, for the log_mass of X."""

    def moved(lower, upper, scale, mean=0.0, *parameters):
        return log_mass((lower - mean) / scale, (upper - mean) / scale, *parameters)

    return moved


def noisy_bits(log_mass: LogMass, y: Any, *parameters: Any) -> Float[Array, "*shape"]:
    """-log2 of the mass of the unit interval around y: bits of integers, density of X + U."""
    y = jnp.asarray(y, jnp.float32)
    return log_mass(y - 0.5, y + 0.5, *parameters) * (-1 / math.log(2.0))
