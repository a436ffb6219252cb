"""Linear wires, added up on the way: an all-reduce of what one sender sends, for all senders.

    mean = D(1/N sum_i R x_i)

All senders compress under one key, so that what they have drawn is the same. A device sends 2 (N -
1) / N of a wire, however many senders there are, and nobody sees what one of them has: the sum
alone. Song et al., Sketching for First Order Method, ICML 2023, algorithm 1. Privacy takes noise as
well: sketched gradients still tell of the data, section 6 there; see private_mean.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.base import Compressor, Exchange, UnsupportedInput
from jaxcomp.optim.exchange import reduce_nbytes, size_of

SMALL = 16  # entries, to look at a wire


def summed(compressor: Compressor, axis_name: str | Sequence[str]) -> Exchange:
    """compressor: linear under its key: count_sketch, srht or random_k. axis_name: several, in a
    tuple. Sums are of float32, to rounding. The key that a wire has is not sent.
    """
    axes = (axis_name,) if isinstance(axis_name, str) else tuple(axis_name)
    parts = _wire(compressor, jax.ShapeDtypeStruct((SMALL,), jnp.float32)).parts
    if not isinstance(parts, dict) or len(parts) != 2 or "key" not in parts:
        raise UnsupportedInput(
            f"expected a compressor that is linear under its key, got {compressor.name}; "
            "count_sketch, srht or random_k, or gathered() of this one"
        )
    (name,) = set(parts) - {"key"}

    def mean(key, x, state):
        wire, state = compressor.compress(jnp.asarray(key), x.astype(jnp.float32), state)
        total = lax.pmean(wire.parts[name], axes)
        sent = compressor.decompress(wire)
        summed_up = dataclasses.replace(wire, parts={**wire.parts, name: total})
        return sent, compressor.decompress(summed_up), state

    def nbytes(x):
        size = _wire(compressor, jax.ShapeDtypeStruct(x.shape, jnp.float32)).parts[name].size
        return reduce_nbytes(4 * size, size_of(axes))

    return Exchange(compressor.init, mean, nbytes, axes, f"summed {compressor.name}")


def _wire(compressor, x):
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    return jax.eval_shape(compressor.compress, key, x, jax.eval_shape(compressor.init, x))[0]
