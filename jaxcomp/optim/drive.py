"""DRIVE: the signs of a randomly rotated vector, and one scale. One bit and a little.

    y = H D x / sqrt(n),   C(x) = S D H sign(y) / sqrt(n)

    least error   S = |y|_1 / n           |C(x) - x|^2 -> (1 - 2/pi) |x|^2 = 0.363 |x|^2
    unbiased      S = |x|_2^2 / |y|_1     |C(x) - x|^2 -> (pi/2 - 1) |x|^2 = 0.571 |x|^2

D are random signs from the key, H is a Hadamard matrix, in blocks of n; the limits are those of
large n. After the rotation all entries are about as large, so that a sign says as much as it can.
Vargaftik et al., DRIVE: One-bit Distributed Mean Estimation, NeurIPS 2021, sections 3 to 5.

One rotation contracts every x: E|y|_1 >= sqrt(n/2) |x|_2 by Khintchine's inequality, so delta is
1/2. It leaves a few equal entries as a few values, whose signs are biased; so the unbiased one
rotates twice, with signs of its own each time. We differ in that: the paper rotates once.
"""

import math

import jax.numpy as jnp

from jaxcomp.base import Compressor, UnsupportedInput
from jaxcomp.kernels import hadamard
from jaxcomp.optim.random import signs
from jaxcomp.optim.wire import (
    blocks,
    keeps_nothing,
    largest,
    pack_signs,
    restored,
    unpack_signs,
    wire,
)

LEAST = 128  # entries of a rotation: fewer are far from their limit
SLACK = 1.1  # times the limit: of two equal entries, blocks of 128 came to 1.03 times it


def drive(*, block: int = 4096, unbiased: bool = True) -> Compressor:
    """block: a power of two, of at least 128 entries that share a rotation and a float32.

    The wire has a key of 8 bytes too. unbiased=False is for error feedback.
    """
    check_rotation(block)
    turns = 2 if unbiased else 1

    def compress(key, x, state):
        x = jnp.asarray(x)
        rows = blocks(x, rotation_of(x.size, block))
        most = largest(rows)  # so that no square overflows
        most = jnp.where(most == 0, 1, most)
        turned = rows / most
        for diagonal in signs(key, (turns, *rows.shape)):
            turned = hadamard.run(turned * diagonal)
        size = jnp.abs(turned).sum(1, keepdims=True)
        if unbiased:
            scale = jnp.square(turned).sum(1, keepdims=True) / jnp.where(size == 0, 1, size)
        else:
            scale = size / rows.shape[1]
        return wire({"signs": pack_signs(turned), "scale": scale * most, "key": key}, x), state

    def decompress(sent):
        rows = unpack_signs(sent.parts["signs"]) * sent.parts["scale"]
        for diagonal in signs(sent.parts["key"], (turns, *rows.shape))[::-1]:
            rows = hadamard.run(rows) * diagonal
        return restored(rows, sent)

    def contraction(size):
        return 0.5

    def variance(size):
        return SLACK * (math.pi / 2 - 1)

    constants = (None, variance) if unbiased else (contraction, None)
    return Compressor(keeps_nothing, compress, decompress, *constants, "drive")


def check_rotation(block: int) -> None:
    """UnsupportedInput for a block that is not rotated."""
    if type(block) is not int or block < LEAST or block & block - 1:
        raise UnsupportedInput(
            f"expected block, a power of two of at least {LEAST}, got {block!r}; 4096 is usual"
        )


def rotation_of(size: int, block: int) -> int:
    """The block that an array of `size` is rotated in: no longer than it needs."""
    return min(block, max(LEAST, 1 << max(0, size - 1).bit_length()))
