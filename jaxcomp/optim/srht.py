"""Rotated at random, then one entry of every few: a linear function that senders can share.

    R = sqrt(m) S H D / sqrt(n),     C(x) = R^T R x,     E R^T R = I,     omega = m - 1

D are random signs, H a Hadamard matrix in blocks of n, S draws one entry of each run of m. What is
drawn is about as large whatever x looks like; random_k, which does not rotate, has the same omega
in the mean over keys, but a single large entry then is there or is not. The subsampled randomised
Hadamard transform: Ailon, Chazelle, 2006; to send gradients, Song et al., Sketching for First Order
Method, ICML 2023. We differ in S: they draw from all entries at once. Under one key the wires of
senders add up: see summed.
"""

import jax.numpy as jnp

from jaxcomp.base import Compressor
from jaxcomp.kernels import hadamard
from jaxcomp.optim.drive import check_rotation, rotation_of
from jaxcomp.optim.random import fold, signs
from jaxcomp.optim.random_k import random_k
from jaxcomp.optim.wire import Wire, blocks, keeps_nothing, restored, wire

DRAWN = 1  # the number of the key that S has; D has 0


def srht(density: float = 0.1, *, block: int = 4096, unbiased: bool = True) -> Compressor:
    """density: share of the entries, one of every 1 / density; float32, beside a key of 8 bytes.

    block: a power of two, of entries that are rotated together. unbiased=False is for error
    feedback: what is drawn as it is, contraction 1 / m. An array with an entry that is not finite
    becomes NaN.
    """
    check_rotation(block)
    drawn = random_k(density, unbiased=unbiased)

    def compress(key, x, state):
        x = jnp.asarray(x)
        rows = blocks(x, rotation_of(x.size, block))
        turned = hadamard.run(rows * signs(fold(key, 0), rows.shape)).reshape(-1)
        sent, _ = drawn.compress(fold(key, DRAWN), turned, ())
        return wire({"sketch": sent.parts["values"], "key": key}, x), state

    def decompress(sent):
        key = sent.parts["key"]
        length = rotation_of(sent.size, block)
        size = max(1, -(-sent.size // length)) * length
        values = {"values": sent.parts["sketch"], "key": fold(key, DRAWN)}
        turned = drawn.decompress(Wire(values, (size,), jnp.float32))
        rows = hadamard.run(turned.reshape(-1, length))
        return restored(rows * signs(fold(key, 0), rows.shape), sent)

    def of_rotated(constant):
        def at(size):
            length = rotation_of(size, block)
            return constant(max(1, -(-size // length)) * length)

        return at

    if unbiased:
        constants = None, of_rotated(drawn.variance)
    else:
        constants = of_rotated(drawn.contraction), None
    return Compressor(keeps_nothing, compress, decompress, *constants, "srht")
