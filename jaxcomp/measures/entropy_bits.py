"""Shannon entropy: the bits per symbol below which no lossless code can stay on average."""

import jax.numpy as jnp
from jax.scipy.special import entr
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num


def entropy_bits(weights: Num[ArrayLike, "*rows symbols"]) -> Float[Array, "*rows"]:
    """-sum(p log2 p) over the last axis, in bits per symbol, where p = weights / sum(weights).

    weights: non-negative counts or probabilities of any total. A row that sums to zero or holds a
    negative value has no entropy and gives NaN. Computed in float32; works under jit and vmap.
    """
    weights = jnp.asarray(weights, jnp.float32)
    p = weights / weights.sum(axis=-1, keepdims=True)
    bits = entr(p).sum(axis=-1) / jnp.log(2.0)
    return jnp.where((weights < 0).any(axis=-1), jnp.nan, bits)
