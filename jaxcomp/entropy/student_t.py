"""Student's t distribution, density ~ (1 + t**2 / v)**(-(v + 1) / 2), as an entropy model.

Its tails are power laws: outliers cost their logarithm, where a Gaussian charges their square. The
tail is half the incomplete beta function I_x(v / 2, 1 / 2) at x = v / (v + t**2): by its continued
fraction far out, and near 0 as 1 - I_(1 - x)(1 / 2, v / 2) by its power series. NIST Handbook of
Mathematical Functions, 8.17.22 and 8.17.8.
"""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jaxcomp.base import EntropyModel, JaxcompError
from jaxcomp.entropy.interval import LogMass, symmetric_log_mass
from jaxcomp.entropy.location_scale import location_scale

MOST_DEGREES = 200.0  # more are nearly a Gaussian: 6 % of a probability at 3 deviations
LEAST_TERM = 1e-8  # of the series: below it, float32 does not change
DEPTH = 20  # of the continued fraction: within 1e-7 for 30 degrees, 1e-6 for 200


def student_t(degrees_of_freedom: float = 4.0, **options) -> EntropyModel:
    """Side: scale > 0 and mean. Options as location_scale.

    The standard deviation is scale * sqrt(v / (v - 2)) for v > 2 degrees of freedom, else infinite.
    Raises JaxcompError unless 0 < degrees_of_freedom <= 200.
    """
    return location_scale(_standard(float(degrees_of_freedom)), **options)


def student_t_log_mass(
    lower: Float[ArrayLike, "..."], upper: Float[ArrayLike, "..."], degrees_of_freedom: float = 4.0
) -> Float[Array, "..."]:
    """log P(lower < T < upper) of Student's t with scale 1; degrees_of_freedom is static."""
    log_mass = _standard(float(degrees_of_freedom))
    return log_mass(jnp.asarray(lower, jnp.float32), jnp.asarray(upper, jnp.float32))


@functools.cache
def _standard(v: float) -> LogMass:
    if not 0 < v <= MOST_DEGREES:
        raise JaxcompError(
            f"degrees_of_freedom must be in (0, {MOST_DEGREES:.0f}], got {v}; use gaussian beyond"
        )
    a = v / 2
    log_beta = math.lgamma(a) + math.lgamma(0.5) - math.lgamma(a + 0.5)
    # Where the fraction begins to converge faster than the series. The tail is 4 % to 50 % there.
    middle = 3 * v / (v + 2)
    series = _series(a, middle / (v + middle))

    def log_tail(t):
        far = t * t >= middle
        out = jnp.where(far, t, 2.0)
        log_x = -jnp.log1p(out * out / v)
        fraction = _fraction(a, jnp.exp(log_x))
        beyond = a * log_x - 0.5 * jnp.log1p(v / (out * out)) - jnp.log(fraction)
        near = jnp.where(far, 0.0, t)
        y = near * near / (v + near * near)
        # Not sqrt(y), whose slope at 0 is infinite.
        within = near / jnp.sqrt(v + near * near) * jnp.exp(a * jnp.log1p(-y) - log_beta)
        within = jnp.log(0.5 - within * jnp.polyval(series, y))
        return jnp.where(far, beyond - math.log(2 * a) - log_beta, within)

    def log_density(t):
        return -(v + 1) / 2 * jnp.log1p(t * t / v) - log_beta - 0.5 * math.log(v)

    return symmetric_log_mass(log_tail, log_density)


def _series(a: float, largest: float) -> np.ndarray:
    """Coefficients of I_y(1/2, a) in y, highest power first; enough for y <= largest."""
    terms = [1.0]
    while terms[-1] * largest ** (len(terms) - 1) > LEAST_TERM:
        k = len(terms) - 1
        terms.append(terms[-1] * (a + 0.5 + k) / (1.5 + k))
    return np.array(terms[::-1], np.float32)


def _fraction(a: float, x: Array) -> Array:
    """What divides x**a (1 - x)**(1/2) / (a B(a, 1/2)) to give I_x(a, 1/2)."""
    value = jnp.ones_like(x)
    for step in reversed(range(1, DEPTH + 1)):
        m, odd = divmod(step, 2)
        if odd:
            d = -(a + m) * (a + 0.5 + m) / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (0.5 - m) / ((a + 2 * m - 1) * (a + 2 * m))
        value = 1 + d * x / value
    return value
