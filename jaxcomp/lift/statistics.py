"""What is gathered of the vectors that multiply a weight: the statistics that methods need."""

import jax.numpy as jnp

from jaxcomp.base import Statistic


def _moment(state, x):
    return {
        "moment": state["moment"] + jnp.einsum("ti,tj->ij", x, x, precision="highest"),
        "count": state["count"] + x.shape[0],
    }


second_moment = Statistic(
    lambda size: {
        "moment": jnp.zeros((size, size), jnp.float32),
        "count": jnp.zeros((), jnp.float32),
    },
    _moment,
    "second_moment",
)
"""sum x x^T f32[size, size] and the number of vectors: the Hessian of a layer's squared error."""

mean_magnitude = Statistic(
    lambda size: {"sum": jnp.zeros(size, jnp.float32), "count": jnp.zeros((), jnp.float32)},
    lambda state, x: {
        "sum": state["sum"] + jnp.abs(x).sum(0),
        "count": state["count"] + x.shape[0],
    },
    "mean_magnitude",
)
"""sum |x| f32[size] and the number of vectors."""

max_magnitude = Statistic(
    lambda size: {"max": jnp.zeros(size, jnp.float32)},
    lambda state, x: {"max": jnp.maximum(state["max"], jnp.abs(x).max(0, initial=0.0))},
    "max_magnitude",
)
"""max |x| f32[size]."""
