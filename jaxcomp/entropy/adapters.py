"""Densities of what rounding and soft rounding make of a variable.

A log_mass(lower, upper, *parameters) of X becomes that of g(X) for an increasing g: the interval is
pulled back by the inverse of g. noisy_bits of it is the density of g(X) + U, which training with
soft rounding needs: Agustsson and Theis, NeurIPS 2020, section 4.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxcomp.entropy.interval import LogMass
from jaxcomp.entropy.soft_round import soft_round_inverse


def mapped(log_mass: LogMass, inverse: Callable[[Array], Array]) -> LogMass:
    """The log_mass of g(X) for an increasing g with this inverse."""

    def pulled(lower, upper, *parameters):
        return log_mass(_pull(inverse, lower), _pull(inverse, upper), *parameters)

    return pulled


def rounded(log_mass: LogMass) -> LogMass:
    """The log_mass of round(X), for intervals whose ends are not integers."""
    return mapped(log_mass, lambda y: jnp.ceil(y) - 0.5)


def soft_rounded(log_mass: LogMass, alpha: Float[ArrayLike, ""]) -> LogMass:
    """The log_mass of soft_round(X, alpha)."""
    return mapped(log_mass, lambda y: soft_round_inverse(y, alpha))


def _pull(inverse, end):
    finite = jnp.isfinite(end)
    return jnp.where(finite, inverse(jnp.where(finite, end, 0.0)), end)
