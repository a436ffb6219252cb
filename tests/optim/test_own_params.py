"""Where a sender is between two means: where gradients have to be taken."""

import jax
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


def test_what_is_masked_is_left_as_it_is():
    away = Away(PerSender({"w": jnp.arange(3.0), "b": optax.MaskedNode()}))
    found = optim.own_params(PARAMS, away)
    np.testing.assert_array_equal(found["w"], [1, 2, 3])
    assert found["b"] is PARAMS["b"]


def test_methods_with_local_steps_can_be_masked():
    mean = optim.dense_mean("data")
    for method in (
        optim.outer(optax.sgd(0.5), mean, every=2),
        optim.zero_one_adam(0.5, mean, freeze=1),
    ):
        method = optax.masked(method, {"w": True, "b": False})

        def run(params, method=method):
            state = method.init(params)
            return method.update(optim.own_params(params, state), state, params)[0]

        lanes = jax.vmap(run, axis_name="data", axis_size=2, in_axes=None, out_axes=None)
        assert jax.eval_shape(lanes, PARAMS)["w"].shape == (3,)
