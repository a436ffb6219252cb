"""A step on eight devices and on one: the same losses, and a state that says what is whose."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxcomp import UnsupportedInput, optim

RANDOM = np.random.default_rng(0)
DATA = RANDOM.normal(size=(16, 6)).astype(np.float32)
PARAMS = {"w": jnp.zeros((6, 4)), "b": jnp.zeros(4)}
TRANSFORM = optax.chain(
    optim.error_feedback(optim.gathered(optim.top_k(0.3), "data")), optax.adam(0.1)
)


def step(params, state, batch):
    def loss(params):
        return jnp.square(batch @ params["w"] + params["b"] - batch[:, :4]).mean()

    value, gradients = jax.value_and_grad(loss)(params)
    updates, state = TRANSFORM.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, value


def mesh_of(count):
    return Mesh(np.array(jax.devices()[:count]), ("data",))


def run(count, steps=4, start=None):
    mesh = mesh_of(count)
    params, state = start or (PARAMS, optim.init(TRANSFORM, PARAMS, mesh, "data", senders=8))
    move, losses = jax.jit(optim.on_senders(step, mesh, "data")), []
    for _ in range(steps):
        params, state, loss = move(params, state, DATA)
        losses.append(loss)
    return np.stack(losses), (params, state)


def test_one_device_follows_what_eight_do_from_any_step():
    losses, (_, state) = run(8)
    assert losses.shape == (4, 8) and losses[-1].mean() < 0.8 * losses[0].mean()
    half, middle = run(8, 2)
    rest, (_, end) = run(1, 2, jax.device_get(middle))
    np.testing.assert_array_equal(half, losses[:2])
    np.testing.assert_allclose(rest, losses[2:], rtol=1e-5)
    same = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(same, jax.device_get(end), jax.device_get(state))


def test_each_sender_keeps_its_own():
    state = optim.init(TRANSFORM, PARAMS, mesh_of(8), "data")
    memory = state[0].own.value[0]["w"]
    assert memory.shape == (8, 6, 4) and memory.sharding.shard_shape(memory.shape) == (1, 6, 4)
    found = optim.specs(state, "data")
    assert found[0].own == PartitionSpec("data") and found[1][0].mu["w"] == PartitionSpec()
    _, (_, state) = run(8, 1)
    fewer = optim.across(state, 2)
    a, b = (s[0].own.value[0]["w"] for s in (state, fewer))
    assert len(b) == 2
    np.testing.assert_allclose(a.mean(0), b.mean(0), rtol=1e-6)


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(UnsupportedInput, match="an axis of the mesh"):
        optim.init(TRANSFORM, PARAMS, mesh_of(8), "model")
    with pytest.raises(UnsupportedInput, match="expected senders"):
        optim.init(TRANSFORM, PARAMS, mesh_of(2), "data", senders=8)
    state = optim.init(TRANSFORM, PARAMS, mesh_of(8), "data")
    with pytest.raises(UnsupportedInput, match="a state of 2 senders"):
        optim.on_senders(step, mesh_of(2), "data")(PARAMS, state, DATA)
