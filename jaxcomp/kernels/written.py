"""written(x) is x, written to memory once: what reads it several times does not compute it anew.

On CPUs XLA computes what it finds cheap in every loop that reads it, optimization_barrier or not.
But a loop in another order than that of x reads single entries where it could read vectors; and a
gather alone is a loop over one flat axis, with a division for every entry to find its row.

What has a division in it XLA does not compute twice, and not in another order. So here is one of
the bits, by ones, as LLVM finds out: it divides nothing.
"""

import jax
import jax.numpy as jnp
from jax import lax

UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}


@jax.custom_jvp
def written(x: jax.Array) -> jax.Array:
    """x of a float or unsigned dtype, bit for bit, in memory if it is read three times or more.

    Its derivative is that of x.
    """
    bits = lax.bitcast_convert_type(x, UNSIGNED[x.dtype.itemsize])
    bits = lax.div(bits, jnp.where(bits & 1 < 2, jnp.ones((), bits.dtype), bits))
    return lax.bitcast_convert_type(bits, x.dtype)


@written.defjvp
def _derivative(primals, tangents):  # that of bits is zero
    return written(*primals), *tangents
