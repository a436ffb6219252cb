"""A step on sharded parameters: what one device does, done by all on their parts."""

import chex
import jax
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from jaxcomp import UnsupportedInput, optim

PARAMS = {"w": np.arange(48, dtype=np.float32).reshape(6, 8), "b": np.ones(3, np.float32)}
SPECS = {"w": PartitionSpec(None, "shard"), "b": PartitionSpec()}


def test_shards_take_the_steps_of_whole_parameters():
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "shard"))
    transform = optax.adam(0.1)
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=2)  # whole parameters, then shards
    def step(params, state, x):
        scale = lax.pmean(x.mean(), ("data", "shard"))
        updates, state = transform.update(jax.tree.map(lambda p: scale * p, params), state)
        return optax.apply_updates(params, updates), state, x.sum()

    x = np.arange(16, dtype=np.float32)
    state = optim.init_sharded(transform, PARAMS, mesh, SPECS)
    assert state[0].mu["w"].shape == (8, 6, 4)
    assert state[0].mu["w"].sharding.shard_shape((8, 6, 4)) == (1, 6, 4)
    move, params = jax.jit(optim.on_sharded(step, mesh, SPECS)), PARAMS
    expected, whole = PARAMS, transform.init(PARAMS)
    for _ in range(2):
        params, state, aux = move(params, state, x)
        updates, whole = transform.update(jax.tree.map(lambda p: x.mean() * p, expected), whole)
        expected = optax.apply_updates(expected, updates)
    np.testing.assert_array_equal(aux, x.reshape(8, 2).sum(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), params, expected)
    assert params["w"].sharding.shard_shape((6, 8)) == (6, 4)


def step_of(transform):
    def step(params, state, x):
        whole = optim.all_gather(optim.identity(), params, "shard", SPECS)
        gradients = jax.grad(lambda p: x.mean() * optax.tree.norm(p, squared=True))(whole)
        updates, state = transform.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, 0

    return step


BEHIND = [
    optim.error_feedback(optim.gathered(optim.top_k(0.1), "data")),
    optim.error_feedback(optim.compressed_mean(optim.sign(block=8), "data")),
    optim.error_feedback(optim.power_sgd(1, "data")),
    optim.ef21(optim.gathered(optim.quantized(block=8), "data")),
    optim.compressed(optim.summed(optim.srht(0.25), "data")),
    optim.fetch_sgd("data", buckets=0.5),
    optim.econtrol(optim.gathered(optim.top_k(0.1), "data"), 0.1),
    optim.dgc("data"),
]


def trace(transform, mesh):
    def run(params, x):
        state = optim.init_sharded(transform, params, mesh, SPECS)
        return optim.on_sharded(step_of(transform), mesh, SPECS)(params, state, x)[:2]

    return jax.eval_shape(run, PARAMS, np.zeros(16, np.float32))


def test_methods_along_other_axes_work_on_shards():
    mesh = AbstractMesh((4, 2), ("data", "shard"))
    for transform in BEHIND:
        params, _ = trace(optax.chain(reduced(), transform), mesh)
        assert jax.tree.map(lambda x: x.shape, params) == {"w": (6, 8), "b": (3,)}


def reduced():
    return optim.reduce_scatter(optim.quantized(block=8), "shard", SPECS)


def test_whole_gradients_of_shards_are_refused():
    mesh = AbstractMesh((4, 2), ("data", "shard"))
    for method in (optim.compressed, optim.error_feedback, optim.ef21):
        with pytest.raises(UnsupportedInput, match="put reduce_scatter before"):
            trace(method(optim.gathered(optim.top_k(0.1), "shard")), mesh)
