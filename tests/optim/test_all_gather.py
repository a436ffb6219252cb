"""Sharded parameters made whole: the same on all devices, in integers where that is asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxcomp import UnsupportedInput, optim
from jaxcomp.formats import INT8

WHOLE = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
SHARDS = {"w": np.stack(np.split(WHOLE, 4, 1)), "b": np.ones((4, 3), np.float32)}
SPECS = {"w": PartitionSpec(None, "shard"), "b": PartitionSpec()}


def test_whole_parameters_of_shards():
    def run(params):
        made = [
            optim.all_gather(c, params, "shard", SPECS)
            for c in (optim.identity(), optim.quantized(INT8, block=32))
        ]
        bad = {**params, "w": params["w"].at[0, 0].set(jnp.where(params["b"][0] > 1, jnp.nan, 0))}
        return *made, optim.all_gather(optim.quantized(INT8), bad, "shard", SPECS)

    shards = {**SHARDS, "b": SHARDS["b"] + np.arange(4)[:, None]}
    exact, near, bad = jax.jit(jax.vmap(run, axis_name="shard"))(shards)
    for found in (exact["w"], near["w"], bad["w"]):
        np.testing.assert_array_equal(found, np.broadcast_to(found[0], found.shape))
    np.testing.assert_array_equal(exact["w"][0], WHOLE)
    np.testing.assert_array_equal(exact["b"], shards["b"])
    off = np.linalg.norm(near["w"][0] - WHOLE) / np.linalg.norm(WHOLE)
    assert 1e-4 < off < 0.02 and np.isnan(bad["w"]).any((1, 2)).all()


def test_what_crosses_the_links_is_integers():
    def run(params):
        return optim.all_gather(optim.quantized(INT8, block=32), params, "shard", SPECS)

    one = {k: jnp.asarray(x[0]) for k, x in SHARDS.items()}
    found = {x.dtype: x.nbytes for x in optim.traffic(run, one, axes={"shard": 4}).links}
    assert found == {"int8": 3 * 96, "bfloat16": 3 * 2 * 3}


def test_what_draws_is_refused_and_what_does_not_is_taken():
    x, specs = jnp.zeros((2, 128)), PartitionSpec("shard")

    def shape_of(method):
        run = lambda x: optim.all_gather(method, x, "shard", specs)  # noqa: E731
        return jax.eval_shape(jax.vmap(run, axis_name="shard"), x).shape

    for method in (optim.qsgd(2), optim.natural(), optim.random_k(0.5, unbiased=False)):
        with pytest.raises(UnsupportedInput, match="keeps and draws nothing, got"):
            shape_of(method)
    for method in (optim.top_k(0.5), optim.sign()):
        assert shape_of(method) == (2, 256)
