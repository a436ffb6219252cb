"""Where a sender is between two means: where gradients have to be taken."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcomp import UnsupportedInput, optim
from jaxcomp.optim.own_params import Away
from jaxcomp.optim.senders import PerSender

PARAMS = {"w": jnp.ones(3), "b": jnp.ones(2, jnp.bfloat16)}


def test_what_local_steps_added_stands_in_the_state_of_a_chain():
    away = Away(PerSender({"w": jnp.arange(3.0), "b": jnp.full(2, 0.5)}))
    state = (optax.EmptyState(), {"inner": away})
    found = optim.own_params(PARAMS, state)
    np.testing.assert_array_equal(found["w"], [1, 2, 3])
    assert found["b"].dtype == jnp.bfloat16 and (found["b"] == 1.5).all()
    with pytest.raises(UnsupportedInput, match="one of 2"):
        optim.own_params(PARAMS, (state, state))


def test_methods_without_local_steps_are_named():
    with pytest.raises(UnsupportedInput, match="other methods take gradients at params"):
        optim.own_params(PARAMS, optax.adam(0.1).init(PARAMS))
