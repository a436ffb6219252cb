"""TernGrad: -1, 0 or 1 times the largest magnitude, at random and so without bias.

    Q(x)_i = s sign(x_i) b_i,   b_i = 1 with probability |x_i| / s,   s = max |x|

    omega = (sqrt(n) - 1) / 2   in blocks of n: the largest of s |x|_1 / |x|_2^2 - 1

Wen et al., TernGrad, NeurIPS 2017, sections 3.1 and 3.3: entries are first clipped to `clip`
standard deviations of the array, which biases the few large ones and makes s, and so the noise,
smaller. With it E Q(x) is the clipped x, and no constant is declared. Packed at 1.6 bits.
"""

import math

import jax.numpy as jnp

from jaxcomp.base import Compressor, UnsupportedInput
from jaxcomp.kernels.packing import TRITS
from jaxcomp.optim.qsgd import rounded, values
from jaxcomp.optim.wire import (
    block_of,
    blocks,
    check_block,
    floats,
    keeps_nothing,
    largest,
    restored,
    wire,
)


def terngrad(*, block: int = 4096, clip: float | None = 2.5) -> Compressor:
    """block of entries that share a float32 scale; clip in standard deviations, 2.5 the paper's."""
    check_block(block)
    if clip is not None and not clip > 0:
        raise UnsupportedInput(f"expected clip above 0, or None, got {clip}; 2.5 is the paper's")

    def compress(key, x, state):
        x = jnp.asarray(x)
        rows = blocks(x, block_of(x.size, block))
        if clip is not None:
            most = clip * jnp.sqrt(jnp.square(floats(x)).mean())
            # An array of few entries has none beyond: 2.5 deviations are more than its largest.
            rows = jnp.clip(rows, -most, most)
        scale = largest(rows)
        return wire({"codes": rounded(key, rows, scale, TRITS), "scale": scale}, x), state

    def decompress(sent):
        length = block_of(sent.size, block)
        return restored(values(sent.parts["codes"], sent.parts["scale"], TRITS, length), sent)

    def variance(size):
        return (math.sqrt(max(1, min(block, size))) - 1) / 2

    return Compressor(
        keeps_nothing, compress, decompress, None, variance if clip is None else None, "terngrad"
    )
