"""Local steps: the parameters of one sender, between two exchanges.

    x_i = x + away_i

What optax is given and gives back are the parameters x that all senders share; local steps change
the state alone, where away_i stands in PerSender, and updates are zero until senders meet again.
Gradients have to be taken where the sender is:

    gradients = jax.grad(loss)(optim.own_params(params, state), batch)
    updates, state = transform.update(gradients, state, params)
    params = optax.apply_updates(params, updates)

Taken at params they would be those of one large batch, step after step at the same place.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcomp.base import UnsupportedInput
from jaxcomp.optim.senders import PerSender


class Away(NamedTuple):
    """value: PerSender, like the parameters, f32: what local steps have added since a mean."""

    value: PerSender


def own_params(params: Any, state: Any) -> Any:
    """The parameters of this sender, of the dtypes of params. Inside shard_map or vmap.

    state: of zero_one_adam or outer, a chain with one of them too; UnsupportedInput for any other.
    What optax.masked has left out of it is as it is in params.
    """
    found = [x for x in jax.tree.leaves(state, is_leaf=_is_away) if _is_away(x)]
    if len(found) != 1:
        raise UnsupportedInput(
            f"expected the state of one method with local steps, got one of {len(found)}; pass the "
            "state of zero_one_adam or outer; other methods take gradients at params"
        )

    def add(away, x):
        if _is_masked(away):
            return x
        x = jnp.asarray(x)
        return (x.astype(jnp.float32) + away).astype(x.dtype)

    return jax.tree.map(add, found[0].value.value, params, is_leaf=_is_masked)


def _is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def _is_away(x: Any) -> bool:
    return isinstance(x, Away)
