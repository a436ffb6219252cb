"""Floats that loops read and write as two halves of 16 bits, so that CPUs run them fast.

LLVM gives a loop vectors of as many entries as its widest array has in a register. A long chain of
float32 then waits for itself: processors look a hundred instructions ahead, which are few entries.
If all arrays have 16 bits or fewer, a vector is of twice as many entries, in two registers, whose
chains overlap: `dynamic_map.encode` takes 6 cycles of 8 entries, not 9 (Zen 5).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float32, UInt16

from jaxcomp.kernels.written import written


def halves(f: Callable[..., jax.Array], *trees: Any) -> UInt16[Array, "*shape 2"]:
    """The halves of the float32 that f(*trees) is, in one loop: the lower ones, and the upper.

    f is elementwise, and given arrays with one more axis behind.
    """
    x = f(*jax.tree.map(lambda x: jnp.broadcast_to(x[..., None], (*x.shape, 2)), trees))
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    none = (bits & 1) >> 1  # as in `together`
    lower = lax.broadcasted_iota(jnp.uint32, bits.shape, bits.ndim - 1) == none
    return written(jnp.where(lower, bits, bits >> 16).astype(jnp.uint16))


def whole(x: UInt16[Array, "..."], positive: Float32[Array, "..."], axis: int = -1) -> jax.Array:
    """The float32 of which x has the halves along an axis, which is no more.

    positive: any float without a sign that broadcasts to the result. LLVM does not know that it has
    none, and would read both halves as one float if it were not put between them.
    """
    lower, upper = (lax.index_in_dim(x, i, axis, keepdims=False) for i in range(2))
    none = lax.bitcast_convert_type(positive, jnp.uint32) >> 31
    bits = upper.astype(jnp.uint32) << 16 | lower.astype(jnp.uint32) ^ none
    return lax.bitcast_convert_type(bits, jnp.float32)
