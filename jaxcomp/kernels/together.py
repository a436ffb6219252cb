"""together(f, *trees): the results of an elementwise f, several, in one loop.

On CPUs XLA makes a loop for every array that it writes, and computes in each of them anew what they
share. Only a reduction of several arrays is one loop with several results. So here is one along an
axis of two, of which the second is nothing, as LLVM finds out: it leaves a loop without it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.kernels.written import UNSIGNED


def together(f: Callable[..., Sequence[jax.Array]], *trees: Any) -> list[jax.Array]:
    """f(*trees), bit for bit: arrays of one shape and one width of dtype, float or unsigned.

    f is given arrays with one more axis behind: it computes elementwise, slices and broadcasts
    along the axes before it.
    """
    results = list(f(*jax.tree.map(lambda x: jnp.broadcast_to(x[..., None], (*x.shape, 2)), trees)))
    bits = [lax.bitcast_convert_type(x, UNSIGNED[x.dtype.itemsize]) for x in results]
    last = bits[0].ndim - 1
    none = (bits[0] & 1) >> 1  # zero; XLA would take a constant out of loops around this one
    first = lax.broadcasted_iota(bits[0].dtype, bits[0].shape, last) == none
    zero = jnp.zeros((), bits[0].dtype)
    found = lax.reduce(
        tuple(jnp.where(first, x, zero) for x in bits),
        (zero,) * len(bits),
        lambda a, b: tuple(map(lax.bitwise_or, a, b)),
        (last,),
    )
    pairs = zip(found, results, strict=True)
    return [lax.bitcast_convert_type(x, like.dtype) for x, like in pairs]
