"""Rounding to integers plus an offset, with the slope of the identity where one is needed.

The offset puts a bin's centre on the mode or the median of a density, which matters when the
density is narrower than a bin: all its mass then falls into one bin, and not into two.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Int32

from jaxcomp.entropy.tails import find_tails


@jax.custom_jvp
def straight_through_round(
    y: Float[Array, "*shape"], offset: Float[ArrayLike, "..."] = 0.0
) -> Float[Array, "*shape"]:
    """round(y - offset) + offset, with slope 1 by y and 0 by offset.

    Theis, Shi, Cunningham and Huszar, Lossy image compression with compressive autoencoders, ICLR
    2017, section 2.1.
    """
    return jnp.round(y - offset) + offset


@straight_through_round.defjvp
def _(primals, tangents):
    return straight_through_round(*primals), tangents[0]


def quantise(
    y: Float[Array | np.ndarray, "*shape"], offset: Float[ArrayLike, "..."] = 0.0
) -> Int32[Array, "*shape"]:
    """The integers to code: round(y - offset), to even where there are two."""
    return jnp.round(y - offset).astype(jnp.int32)


def dequantise(
    symbols: Int[Array | np.ndarray, "*shape"], offset: Float[ArrayLike, "..."] = 0.0
) -> Float[Array, "*shape"]:
    """What the integers stand for: symbols + offset, float32."""
    return jnp.asarray(symbols, jnp.float32) + offset


def quantisation_offset(
    log_mass: Callable[[Array, Array], Array], rows: int
) -> Float[np.ndarray, " rows"]:
    """The distance of each row's median from an integer, in [-1/2, 1/2].

    log_mass(lower, upper) -> log P(lower < X < upper), all float32[rows]. Computed at once; no
    gradient.
    """
    median, _ = find_tails(log_mass, rows, 1.0)
    return median - np.round(median)
