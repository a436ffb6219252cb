"""What is gathered of the vectors that multiply a weight: the statistics that methods need.

A vector of zeros adds nothing and is not counted: padding, dead units, and rows that a mixture of
experts has sent elsewhere leave no trace.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcomp.base import Statistic, UnsupportedInput


def _count(x: jax.Array) -> jax.Array:
    return jnp.any(x != 0, -1).sum().astype(jnp.float32)


def _moment(state, x):
    return {
        "moment": state["moment"] + jnp.einsum("ti,tj->ij", x, x, precision="highest"),
        "count": state["count"] + _count(x),
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
    lambda state, x: {"sum": state["sum"] + jnp.abs(x).sum(0), "count": state["count"] + _count(x)},
    "mean_magnitude",
)
"""sum |x| f32[size] and the number of vectors."""

max_magnitude = Statistic(
    lambda size: {"max": jnp.zeros(size, jnp.float32)},
    lambda state, x: {"max": jnp.maximum(state["max"], jnp.abs(x).max(0, initial=0.0))},
    "max_magnitude",
)
"""max |x| f32[size]."""


def both(*statistics: Statistic) -> Statistic:
    """Several at once: the state is {name: state}. compress hands each method what it needs."""
    names = [statistic.name for statistic in statistics]
    if not names or len(set(names)) != len(names):
        raise UnsupportedInput(
            f"expected statistics of different names, got {names}; give one another name"
        )
    return Statistic(
        lambda size: {s.name: s.init(size) for s in statistics},
        lambda state, x: {s.name: s.update(state[s.name], x) for s in statistics},
        f"both({', '.join(names)})",
    )


def part(statistic: Statistic, state: Any) -> Any:
    """The state of `statistic` inside an observed one, which may be one of `both`; else None.

    Told by the structure of the state and, in `both`, by names.
    """
    like = jax.eval_shape(lambda: statistic.init(1))

    def fits(found):
        return jax.tree.structure(found) == jax.tree.structure(like)

    if fits(state):
        return state
    if not isinstance(state, dict):
        return None
    if fits(state.get(statistic.name)):
        return state[statistic.name]
    some = {name: state[name] for name in like if name in state} if isinstance(like, dict) else {}
    return some if some and fits(some) else None
