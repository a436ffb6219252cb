"""A step on sharded parameters: what one device does, done by all on their parts."""

import chex
import jax
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxcomp import optim

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
