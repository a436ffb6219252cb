"""Additive uniform noise, the differentiable stand-in for rounding while training.

For Y = X + U with U uniform on a unit interval, the density of Y at the integers is the probability
of rounding X to them. So bits(params, y) of noisy values is a rate that can be trained, and the
same bits of integers is the rate that coding pays. Balle, Laparra and Simoncelli, End-to-end
optimized image compression, ICLR 2017.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def add_uniform_noise(key: Array, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """y + U, U uniform on [-1/2, 1/2). Fresh noise for each element; key is of jax.random."""
    return y + jax.random.uniform(key, jnp.shape(y), jnp.result_type(y), -0.5, 0.5)
