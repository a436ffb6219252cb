"""Where a distribution ends: the quantiles that leave half of a tail mass outside on each side.

Bisection on log P, so that any tail mass works; TFC's estimate_tails descends a gradient instead.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

# Quantiles beyond this are not found: float32 no longer tells integers apart.
FARTHEST = 2.0**24
STEPS = 64  # halvings of 2**25 in float32: until neighbours


def find_tails(
    log_mass: Callable[[Array, Array], Array],
    rows: int,
    tail_mass: float | Float[np.ndarray, " rows"],
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """The quantiles tail_mass / 2 and 1 - tail_mass / 2 of each row, float32.

    log_mass(lower, upper) -> log P(lower < X < upper), all float32[rows], for infinite ends too.
    Computed at once, also while something else is being traced.
    """
    return tail_finder(lambda params, *ends: log_mass(*ends), rows)((), tail_mass)


def tail_finder(log_mass: Callable[[Any, Array, Array], Array], rows: int) -> Callable[..., tuple]:
    """find_tails as a function of (params, tail_mass), compiled once."""
    infinite = np.full(rows, math.inf, np.float32)

    @jax.jit
    def search(params, target):
        def halve(_, ends):
            low, high = ends  # [2, rows]: towards the lower quantile, and the upper
            middle = (low + high) / 2
            x = _place(middle)
            below, above = log_mass(params, -infinite, x[0]), log_mass(params, x[1], infinite)
            up = jnp.stack([below < target, above > target])
            return jnp.where(up, middle, low), jnp.where(up, high, middle)

        end = jnp.full((2, rows), math.log2(FARTHEST), jnp.float32)
        low, high = lax.fori_loop(0, STEPS, halve, (-end, end))
        return _place((low + high) / 2)

    def find(params, tail_mass):
        target = np.broadcast_to(np.log(np.asarray(tail_mass) / 2), (rows,)).astype(np.float32)
        with jax.ensure_compile_time_eval():
            lower, upper = np.asarray(search(params, target))
        return lower, upper

    return find


def _place(x):
    """sign(x) (2**|x| - 1): bisection in steps that are fine near 0 and coarse far from it."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x) * math.log(2.0))
