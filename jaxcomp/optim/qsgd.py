"""QSGD: every entry to one of its two neighbours among s levels, at random and so without bias.

    Q(x)_i = |x|_2 sign(x_i) l / s,   l = floor(s |x_i| / |x|_2 + u),  u uniform on [0, 1)

    omega = min(n / s^2, sqrt(n) / s)   in blocks of n

Alistarh et al., QSGD, NeurIPS 2017, section 3.1 and lemma 3.1. We differ: levels have a fixed
width, one of -s ... s in few bits, where the paper codes them by their rareness.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float32, UInt8, UInt32

from jaxcomp.base import Compressor, UnsupportedInput
from jaxcomp.kernels import packing
from jaxcomp.optim.random import uniform
from jaxcomp.optim.wire import (
    LARGEST,
    block_of,
    blocks,
    check_block,
    keeps_nothing,
    largest,
    restored,
    wire,
)


def qsgd(bits: int = 4, *, block: int = 256) -> Compressor:
    """bits of a level: s = 2**(bits - 1) - 1; and s = 1 at 1.6 bits for 0, which is packing.TRITS.

    block of entries that share a float32. Variance min(block / s^2, sqrt(block) / s).
    """
    check_block(block)
    if bits not in (0, 2, 3, 4, 5, 6, 7, 8):
        raise UnsupportedInput(
            f"expected bits of 2 to 8, or 0 for three levels, got {bits!r}; 4 is usual"
        )
    levels = levels_of(bits)

    def compress(key, x, state):
        x = jnp.asarray(x)
        rows = blocks(x, block_of(x.size, block))
        scale = norm(rows)
        return wire({"codes": rounded(key, rows, scale, bits), "scale": scale}, x), state

    def decompress(sent):
        length = block_of(sent.size, block)
        return restored(values(sent.parts["codes"], sent.parts["scale"], bits, length), sent)

    def variance(size):
        size = min(block, size)
        return min(size / levels**2, math.sqrt(size) / levels)

    return Compressor(keeps_nothing, compress, decompress, None, variance, f"qsgd {bits}")


def levels_of(bits: int) -> int:
    """s, the largest level of a code."""
    return 1 if bits == packing.TRITS else (1 << bits - 1) - 1


def norm(rows: Float32[Array, "blocks block"]) -> Float32[Array, "blocks 1"]:
    """|x|_2 of each row, also where squares are beyond a float32's range."""
    most = largest(rows)
    safe = jnp.where(most == 0, 1, most)
    size = most * jnp.sqrt(jnp.square(rows / safe).sum(1, keepdims=True))
    return jnp.where(size <= LARGEST, size, jnp.nan)


def rounded(
    key: UInt32[Array, "2"],
    rows: Float32[Array, "blocks block"],
    scale: Float32[Array, "blocks 1"],
    bits: int,
) -> UInt8[Array, "blocks bytes"]:
    """Codes of rows in levels of scale / s, each up or down at random; scale is at least |rows|."""
    levels = levels_of(bits)
    steps = jnp.abs(rows) / jnp.where(scale == 0, 1, scale) * levels
    steps = jnp.floor(steps + uniform(key, rows.shape))
    steps = jnp.where(steps <= levels, steps, levels)  # rounding, and NaN under a scale of NaN
    codes = (jnp.where(rows < 0, -steps, steps) + levels).astype(jnp.uint8)
    return packing.pack(codes, bits, axis=-1, tile=rows.shape[-1])


def values(
    codes: UInt8[Array, "blocks bytes"], scale: Float32[Array, "blocks 1"], bits: int, block: int
) -> Float32[Array, "blocks block"]:
    """What the codes of `rounded` stand for."""
    levels = levels_of(bits)
    signed = packing.unpack(codes, bits, axis=-1, tile=block).astype(jnp.float32) - levels
    return signed * (scale / levels)
