"""Natural compression: every entry to a power of two, up or down at random and so without bias.

    2^e (1 + f) -> 2^(e + 1) with probability f, else 2^e,   f in [0, 1)         omega = 1 / 8

The sign and the exponent of a float32 are sent, 9 bits; there is no scale. Random bits added to the
mantissa carry into the exponent with just that probability. Horvath et al., Natural Compression for
Distributed Deep Learning, MSML 2022, section 2 and theorem 3. Below 2^-126 an entry becomes 0 or
2^-126 (0 where the processor has no such floats); above 2^127 it becomes 2^127; NaN, infinity.
"""

import jax.numpy as jnp
from jax import lax

from jaxcomp.base import Compressor
from jaxcomp.kernels import packing
from jaxcomp.optim.random import words
from jaxcomp.optim.wire import LEAST_BLOCK, floats, keeps_nothing, restored, wire

MANTISSA = 23  # bits
NOT_FINITE = 255  # the exponent of infinity


def natural() -> Compressor:
    """Takes no options. Variance 1/8."""

    def compress(key, x, state):
        x = jnp.asarray(x)
        bits = lax.bitcast_convert_type(floats(x), jnp.uint32)
        noise = words(key, bits.shape) >> (32 - MANTISSA)
        exponent = (bits & 0x7FFFFFFF) + noise >> MANTISSA
        largest = jnp.where(bits >> MANTISSA & 255 == NOT_FINITE, NOT_FINITE, NOT_FINITE - 1)
        exponent = jnp.minimum(exponent, largest.astype(jnp.uint32)).astype(jnp.uint8)
        negative = jnp.pad((bits >> 31).astype(jnp.uint8), (0, -x.size % LEAST_BLOCK))
        signs = packing.pack(negative, 1, axis=0, tile=LEAST_BLOCK)
        return wire({"exponents": exponent, "signs": signs}, x), state

    def decompress(sent):
        exponent = sent.parts["exponents"].astype(jnp.uint32)
        negative = packing.unpack(sent.parts["signs"], 1, axis=0, tile=LEAST_BLOCK)[: sent.size]
        bits = negative.astype(jnp.uint32) << 31 | exponent << MANTISSA
        return restored(lax.bitcast_convert_type(bits, jnp.float32), sent)

    return Compressor(keeps_nothing, compress, decompress, None, lambda size: 1 / 8, "natural")
