"""Universal quantisation: round(y - u) + u, with the same dither u on both sides.

For u uniform on [-1/2, 1/2) the result is y plus uniform noise, independent of y: what training
with noise assumed, not an approximation of it. Ziv, On universal quantization, 1985; for learned
codecs Agustsson and Theis, NeurIPS 2020, section 3. Encoder and decoder draw u from
base.random_bits, the same on every device and for every version, under a key of two integers below
2**32 that travels in the header.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, UInt32

from jaxcomp.base import JaxcompError, random_bits

MOST_LEVELS = 256  # 24 random bits times levels must fit 32


def dither(key: tuple[int, int], shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """Multiples of 2**-24 in [-1/2, 1/2), float32; a function of the key and the position."""
    return (_words(key, shape) >> 8).astype(jnp.float32) * 2.0**-24 - 0.5


def universal_quantise(
    key: tuple[int, int], y: Float[Array | np.ndarray, "*shape"]
) -> Int32[Array, "*shape"]:
    """The integers round(y - u)."""
    return jnp.round(y - dither(key, y.shape)).astype(jnp.int32)


def universal_dequantise(
    key: tuple[int, int], symbols: Int[Array | np.ndarray, "*shape"]
) -> Float[Array, "*shape"]:
    """symbols + u, within 1/2 of what was quantised; one addition, the same on every device."""
    return jnp.asarray(symbols, jnp.float32) + dither(key, symbols.shape)


def dither_index(
    key: tuple[int, int], shape: tuple[int, ...], levels: int
) -> Int32[Array, "*shape"]:
    """Uniform integers below levels, for a dither with few values: one table each.

    Raises JaxcompError for more than 256 levels, or none.
    """
    if not 1 <= levels <= MOST_LEVELS:
        raise JaxcompError(f"expected 1 to {MOST_LEVELS} levels, got {levels}")
    return ((_words(key, shape) >> 8) * np.uint32(levels) >> 24).astype(jnp.int32)


def dither_value(index: Int[Array | np.ndarray, "*shape"], levels: int) -> Float[Array, "*shape"]:
    """The dither that an index stands for, (index + 1/2) / levels - 1/2."""
    return (jnp.asarray(index, jnp.float32) + 0.5) / levels - 0.5


def _words(key: tuple[int, int], shape: tuple[int, ...]) -> UInt32[Array, "*shape"]:
    count = math.prod(shape)
    both = random_bits(key, jnp.arange(-(-count // 2), dtype=jnp.uint32))
    return jnp.stack(both, axis=-1).reshape(-1)[:count].reshape(shape)
