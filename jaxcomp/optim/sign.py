"""The sign of every entry, with a scale for each block: one bit and a little.

    C(x) = (|x|_1 / n) sign(x)   in each block of n,   |C(x) - x|^2 = |x|^2 - |x|_1^2 / n

The scale is that of least error. Zero counts as positive. The error is largest, 1 - 1/n, where one
entry is all of a block. Seide et al., 1-bit SGD, Interspeech 2014; Karimireddy et al., Error
Feedback Fixes SignSGD, ICML 2019, section 4. The scale |x|_2 / sqrt(n) of 1-bit Adam can add to the
error of what it should reduce (1.6 |x|^2 where 5 % of the entries are not zero): it is not offered.
"""

import jax.numpy as jnp

from jaxcomp.base import Compressor
from jaxcomp.optim.wire import (
    block_of,
    blocks,
    check_block,
    counts,
    keeps_nothing,
    pack_signs,
    restored,
    unpack_signs,
    wire,
)


def sign(*, block: int = 256) -> Compressor:
    """block of entries that share a float32: 1.125 bits per entry at 256. Contraction 1 / block."""
    check_block(block)

    def compress(key, x, state):
        x = jnp.asarray(x)
        length = block_of(x.size, block)
        rows = blocks(x, length)
        scale = jnp.abs(rows).sum(1, keepdims=True) / counts(x.size, length)
        return wire({"signs": pack_signs(rows), "scale": scale}, x), state

    def decompress(sent):
        return restored(unpack_signs(sent.parts["signs"]) * sent.parts["scale"], sent)

    def contraction(size):
        return 1 / max(1, min(block, size))

    return Compressor(keeps_nothing, compress, decompress, contraction, None, "sign")
