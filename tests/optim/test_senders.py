"""A step on eight devices and on one: the same losses, and a state that says what is whose."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
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


def test_a_checkpoint_of_orbax_holds_what_each_sender_keeps(tmp_path):
    _, (_, state) = run(8, 2)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        place = optim.shapes(TRANSFORM, PARAMS, mesh_of(8), "data")
        again = checkpointer.restore(tmp_path / "state", place)
    jax.tree.map(np.testing.assert_array_equal, again, state)
    memory = again[0].own.value[0]["w"]
    assert memory.sharding.shard_shape(memory.shape) == (1, 6, 4) and memory.any()


def test_senders_lie_along_two_axes_and_shapes_say_where():
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("slices", "chips"))
    exchange = optim.hierarchical(optim.gathered(optim.top_k(0.5), "slices"), inner="chips")
    transform = optim.error_feedback(exchange)

    def step(params, state, batch):
        out, state = transform.update({"w": batch[0, :4]}, state)
        return jax.tree.map(jnp.subtract, params, out), state, ()

    params, axes = {"w": jnp.zeros(4)}, ("slices", "chips")
    state = optim.init(transform, params, mesh, axes)
    again = optim.shapes(transform, params, mesh, axes)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, again)
    for a, b in zip(*map(jax.tree.leaves, (state, again)), strict=True):
        assert a.sharding.is_equivalent_to(b.sharding, a.ndim)
    move = jax.jit(optim.on_senders(step, mesh, axes))
    for _ in range(2):
        params, state, _ = move(params, state, DATA[:8])
    memory = state.own.value[0]["w"]
    assert memory.shape == (8, 4)
    np.testing.assert_allclose(
        memory.mean(0) - params["w"], 2 * DATA[:8, :4].mean(0), rtol=1e-4, atol=1e-5
    )


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(UnsupportedInput, match="axes of the mesh"):
        optim.init(TRANSFORM, PARAMS, mesh_of(8), "model")
    with pytest.raises(UnsupportedInput, match="expected senders"):
        optim.init(TRANSFORM, PARAMS, mesh_of(2), "data", senders=8)
    state = optim.init(TRANSFORM, PARAMS, mesh_of(8), "data")
    with pytest.raises(UnsupportedInput, match="a state of 2 senders"):
        optim.on_senders(step, mesh_of(2), "data")(PARAMS, state, DATA)


def test_lanes_whose_states_come_apart_are_told_why():
    transform = optim.error_feedback(optim.top_k(0.5))  # each skips its own steps

    def step(params, state, batch):
        out, state = transform.update(batch[0, :4], state)
        return params - jax.lax.pmean(out, "data"), state, ()

    params = jnp.zeros(4)
    state = optim.shapes(transform, params, mesh_of(1), "data", senders=2)
    with pytest.raises(UnsupportedInput, match="a compressor alone its axis"):
        jax.eval_shape(optim.on_senders(step, mesh_of(1), "data"), params, state, DATA[:2])
