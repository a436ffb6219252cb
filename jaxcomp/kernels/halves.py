"""Floats as two halves of 16 bits, for loops that CPUs are to run fast.

LLVM gives a loop vectors of as many entries as its widest array has in a register. A long chain of
float32 then waits for itself: processors look a hundred instructions ahead, which are few entries.
If all arrays have 16 bits or fewer, a vector is of twice as many entries, in two registers, whose
chains overlap: `dynamic_map.encode` takes 6 cycles of 8 entries, not 9 (Zen 5).
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float32, UInt16


def halves(
    x: Float32[Array, "*shape"],
) -> tuple[UInt16[Array, "*shape"], UInt16[Array, "*shape"]]:
    """The upper bits of x, and the lower ones."""
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    return (bits >> 16).astype(jnp.uint16), bits.astype(jnp.uint16)


def whole(upper: UInt16[Array, "*shape"], lower: UInt16[Array, "*shape"]) -> jax.Array:
    """The float32 of which these are the halves."""
    bits = upper.astype(jnp.uint32) << 16 | lower.astype(jnp.uint32)
    return lax.bitcast_convert_type(bits, jnp.float32)
