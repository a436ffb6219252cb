"""Sketches add up on the way: the mean of all for the bytes of one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import UnsupportedInput, optim
from tests.checks_optim import check_exchange

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("method", [optim.count_sketch, optim.srht])
def test_law(method):
    inputs = RANDOM.normal(size=(4, 200)).astype(np.float32)
    check_exchange(lambda axis: optim.summed(method(0.25, unbiased=False), axis), inputs)


def test_with_feedback_all_arrives_and_the_bytes_do_not_grow_with_senders():
    exchange = optim.summed(optim.count_sketch(0.25, unbiased=False), ("slices", "chips"))
    transform = optim.error_feedback(exchange)
    inputs = RANDOM.normal(size=(2, 2, 100)).astype(np.float32)

    def run(x):
        def step(state, _):
            out, state = transform.update(x, state)
            return state, out

        state, outs = jax.lax.scan(step, transform.init(x), None, 200)
        return outs.mean(0), state.own.value[0]

    both = jax.vmap(jax.vmap(run, axis_name="chips"), axis_name="slices")
    found, memory = jax.jit(both)(inputs)
    mean = inputs.mean((0, 1))
    assert np.linalg.norm(found[0, 0] - mean) < 0.06 * np.linalg.norm(mean)
    np.testing.assert_allclose(found[0, 0] + memory.mean((0, 1)) / 200, mean, atol=1e-4)
    x = jax.ShapeDtypeStruct((100,), jnp.float32)
    sent = [
        optim.traffic(lambda x: exchange.mean(jnp.zeros(2, jnp.uint32), x, ())[1], x, axes=axes)
        for axes in ({"slices": 2, "chips": 2}, {"slices": 8, "chips": 64})
    ]
    assert sent[0].nbytes == 150 and sent[1].nbytes == 200


def test_what_is_not_linear_is_refused():
    for method in (optim.top_k(0.1), optim.drive(), optim.identity()):
        with pytest.raises(UnsupportedInput, match="linear under its key"):
            optim.summed(method, "data")
    assert optim.summed(optim.random_k(0.1), "data").name == "summed random_k"
