"""Random arrays for tests: those of jax.random, without a program for every shape."""

import math
from collections.abc import Callable, Sequence

import jax
import numpy as np


def drawn(draw: Callable[..., jax.Array], key: jax.Array, shape: Sequence[int]) -> jax.Array:
    """draw(key, shape), for jax.random.normal or uniform, in one program for many shapes.

    Entry i is a function of the key and of i alone; each program takes 0.1 s to compile.
    """
    size = math.prod(shape)
    room = max(4096, 4 ** math.ceil(math.log(size, 4)))
    return jax.device_put(np.asarray(draw(key, (room,)))[:size].reshape(shape))
