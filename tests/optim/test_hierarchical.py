"""Dense within a slice, compressed between slices, each byte of the network sent once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import UnsupportedInput, optim

INPUTS = np.random.default_rng(0).normal(size=(4, 2, 100)).astype(np.float32)


def over_both(function):
    return jax.jit(jax.vmap(jax.vmap(function, axis_name="chips"), axis_name="slices"))


def test_without_rounding_it_is_the_mean():
    exchange = optim.hierarchical(optim.dense_mean("slices"), inner="chips")
    mean = over_both(lambda x: exchange.mean(jnp.zeros(2, jnp.uint32), x, exchange.init(x))[1])
    np.testing.assert_allclose(
        mean(INPUTS), np.broadcast_to(INPUTS.mean((0, 1)), INPUTS.shape), atol=1e-6
    )


def test_all_is_sent_in_the_end_and_a_chip_sends_its_shard():
    exchange = optim.hierarchical(optim.gathered(optim.top_k(0.1), "slices"), inner="chips")
    transform = optim.error_feedback(exchange)

    def run(x):
        def step(state, _):
            out, state = transform.update(x, state)
            return state, out

        state, outs = jax.lax.scan(step, transform.init(x), None, 20)
        return outs.sum(0), state.own.value[0], state.log.nbytes[:, 0]

    total, memory, nbytes = map(np.asarray, over_both(run)(INPUTS))
    mean, owed = 20 * INPUTS.mean((0, 1)), memory.mean((0, 1))
    np.testing.assert_allclose(total + owed, np.broadcast_to(mean, total.shape), atol=1e-4)
    assert np.linalg.norm(owed) < 0.5 * np.linalg.norm(mean)
    # A shard of 50: 200 bytes each way within, 5 values and 5 bytes of places to three slices.
    assert (nbytes == [20 * (2 * 200 + 3 * (5 * 4 + 5) + 7), 20 * 2 * 7 * 50]).all()


def test_the_axes_are_apart():
    with pytest.raises(UnsupportedInput, match="axes other than 'chips'"):
        optim.hierarchical(optim.dense_mean("chips"), inner="chips")
