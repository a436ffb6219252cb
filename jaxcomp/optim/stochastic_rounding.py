"""Parameters in bfloat16 that move by less than their spacing: up or down at random.

    p + u  ->  one of its two neighbours in bfloat16, whose mean over draws is p + u

Rounded to nearest, a step below half of the spacing (0.2 % of a weight) is lost, each time anew.
Gupta et al., Deep Learning with Limited Numerical Precision, ICML 2015, section 3. Comes last in a
chain, and its updates are float32: applied as optax.apply_updates does, they lead to the neighbour.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float32, UInt32

from jaxcomp.base import UnsupportedInput
from jaxcomp.optim.random import fold, words


class StochasticRoundingState(NamedTuple):
    """key u32[2] and count i32: randomness is the key folded with step and leaf."""

    key: jax.Array
    count: jax.Array


def rounded(key: UInt32[Array, "2"], x: Float32[Array, "*shape"]) -> Float32[Array, "*shape"]:
    """x to a multiple of bfloat16's spacing: 16 random bits added, and 16 cut off."""
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    bits += words(key, x.shape) >> 16
    cut = lax.bitcast_convert_type(bits & np.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(x), cut, x)


def stochastic_rounding(seed: int = 0) -> optax.GradientTransformation:
    """For the leaves of bfloat16; others pass. update needs the parameters."""

    def init(params):
        return StochasticRoundingState(
            fold(jnp.zeros(2, jnp.uint32), seed), jnp.zeros((), jnp.int32)
        )

    def update(updates, state, params=None):
        if params is None:
            raise UnsupportedInput("expected parameters to round, got None; pass them to update")
        leaves, structure = jax.tree.flatten(updates)
        keys = fold(state.key, state.count, jnp.arange(len(leaves)))
        outs = []
        for key, u, p in zip(keys, leaves, structure.flatten_up_to(params), strict=True):
            if p.dtype == jnp.bfloat16:
                p = p.astype(jnp.float32)
                u = rounded(key, p + u.astype(jnp.float32)) - p
            outs.append(u)
        return structure.unflatten(outs), state._replace(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)
