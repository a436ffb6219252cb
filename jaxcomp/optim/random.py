"""Random words under a key that is an array: one key for each step, leaf and sender.

    word_i = random_bits((0, 1), i * odd(key[0]) + key[1])

base.random_bits takes keys that are known when a program is made; a key that changes from step to
step moves its counter instead. No counter comes twice within a draw, and the draws of two keys go
through the counters at different paces.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float32, UInt32

from jaxcomp.base import UnsupportedInput, random_bits

FRACTION_BITS = 24  # what a float32 in [0, 1) holds


def fold(key: ArrayLike, *numbers: ArrayLike) -> UInt32[Array, "*shape 2"]:
    """The key of a key u32[2] and of integers: a step, the number of a leaf, the index of a sender.

    An array of integers in the last place makes as many keys. The same on every device and for
    every version. UnsupportedInput for integers of more than 32 bits, and for what is none.
    """
    return _folded(key, *map(_word, numbers))


def _word(number):
    if not isinstance(number, int):
        if not jnp.issubdtype(getattr(number, "dtype", float), jnp.integer):
            raise UnsupportedInput(f"expected an integer, as a seed is, got {number!r}")
        return number
    if not -(1 << 31) <= number < 1 << 32:
        raise UnsupportedInput(f"expected a seed of at most 32 bits, got {number}; cut it off")
    return np.uint32(number & 0xFFFFFFFF)  # jit takes integers for int32


@jax.jit  # traced once, wherever it is used
def _folded(key, *numbers):
    key = jnp.asarray(key, jnp.uint32)
    for number in numbers:
        a, b = random_bits((1, 0), key[0] + jnp.asarray(number).astype(jnp.uint32))
        c, d = random_bits((1, 1), key[1] ^ a)
        key = jnp.stack([c, b ^ d], -1)
    return key


@functools.partial(jax.jit, static_argnums=1)
def words(key: UInt32[Array, "2"], shape: tuple[int, ...]) -> UInt32[Array, "*shape"]:
    """32 random bits for each element, a function of the key and of its position."""
    size = math.prod(shape)
    counter = lax.iota(jnp.uint32, -(-size // 2)) * (2 * key[0] + 1) + key[1]
    return jnp.concatenate(random_bits((0, 1), counter))[:size].reshape(shape)


def uniform(key: UInt32[Array, "2"], shape: tuple[int, ...]) -> Float32[Array, "*shape"]:
    """Multiples of 2**-24 in [0, 1)."""
    fraction = words(key, shape) >> (32 - FRACTION_BITS)
    return fraction.astype(jnp.float32) * 2.0**-FRACTION_BITS


def signs(key: UInt32[Array, "2"], shape: tuple[int, ...]) -> Float32[Array, "*shape"]:
    """+1 and -1."""
    return 1 - 2 * (words(key, shape) >> 31).astype(jnp.float32)
