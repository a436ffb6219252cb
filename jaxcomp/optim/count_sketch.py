"""Entries added up in few buckets, with random signs: a linear function that senders can share.

    (R x)_b = sum of s_i x_i over the i with h(i) = b,     C(x) = R^T R x,     E R^T R = I

h puts each of d entries in one of b buckets, s are signs, both from the key: omega = (d - 1) / b,
since each other entry is met with a chance of 1 / b. Charikar, Chen, Farach-Colton, Finding
Frequent Items in Data Streams, 2002; to send gradients, Song et al., Sketching for First Order
Method, ICML 2023. We differ: one row of buckets. Under one key sketches add up: see summed.

Without the shrinking by 1 / (1 + omega) of unbiased=False errors grow under feedback.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

from jaxcomp.base import Compressor
from jaxcomp.optim.places import count_of
from jaxcomp.optim.random import words
from jaxcomp.optim.wire import floats, keeps_nothing, restored, wire

BUCKET_BITS = 31  # of a random word; the other one is the sign
SLACK = 1.01  # buckets are remainders of those bits: uniform to 1 % for 2^24 of them


def count_sketch(density: float = 0.1, *, unbiased: bool = True) -> Compressor:
    """density: buckets for each entry, at least one in all; float32, beside a key of 8 bytes.

    unbiased=False is for error feedback: contraction 1 / (1 + omega). What is not finite stays in
    its bucket. Scatters are slow on a TPU: srht has none.
    """
    count_of(1, density)

    def variance(size):
        return SLACK * max(0, size - 1) / max(1, count_of(size, density))

    def compress(key, x, state):
        x = jnp.asarray(x)
        flat = floats(x)
        bucket, sign = hashed(key, flat.size, count_of(x.size, density))
        sketch = jnp.zeros(count_of(x.size, density), jnp.float32).at[bucket].add(sign * flat)
        return wire({"sketch": sketch, "key": key}, x), state

    def decompress(sent):
        sketch = sent.parts["sketch"]
        bucket, sign = hashed(sent.parts["key"], sent.size, sketch.size)
        scale = 1 if unbiased else 1 / (1 + variance(sent.size))
        return restored(scale * sign * sketch[bucket], sent)

    def contraction(size):
        return 1 / (1 + variance(size))

    constants = (None, variance) if unbiased else (contraction, None)
    return Compressor(keeps_nothing, compress, decompress, *constants, "count_sketch")


def hashed(key, size: int, buckets: int) -> tuple[Int32[Array, " size"], Float32[Array, " size"]]:
    """A bucket and a sign for each entry."""
    word = words(jnp.asarray(key), (size,))
    bucket = (word & jnp.uint32((1 << BUCKET_BITS) - 1)) % jnp.uint32(max(1, buckets))
    return bucket.astype(jnp.int32), 1 - 2 * (word >> BUCKET_BITS).astype(jnp.float32)
