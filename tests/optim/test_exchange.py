"""What exchanges are made of: rings, shards, and the exchange of a lone sender."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from jaxcomp import UnsupportedInput, optim
from jaxcomp.optim import exchange


def test_rings():
    assert exchange.gather_nbytes(10, 8) == 70
    assert exchange.reduce_nbytes(80, 8) == 140 and exchange.reduce_nbytes(81, 8) == 142
    assert exchange.dense_nbytes(jnp.zeros((3, 5), jnp.bfloat16), ()) == 30


def test_shards_are_equal_and_filled_with_zeros():
    x = jnp.arange(1.0, 8).reshape(7, 1)
    np.testing.assert_array_equal(exchange.shards(x, 3), [[1, 2, 3], [4, 5, 6], [7, 0, 0]])
    assert exchange.shards(x, 2, 8).shape == (2, 8) and exchange.shard_of(0, 4) == 1


def test_a_compressor_is_an_exchange_of_nobody():
    lone = exchange.exchange_of(optim.top_k(0.5))
    sent, mean, _ = lone.mean(jnp.zeros(2, jnp.uint32), jnp.array([1.0, 3]), ())
    np.testing.assert_array_equal(sent, [0, 3])
    np.testing.assert_array_equal(mean, sent)
    assert lone.axes == () and lone.nbytes(jnp.zeros(2)) == 6


def test_an_exchange_has_axes_of_its_own():
    with pytest.raises(UnsupportedInput, match="axis_name with a compressor alone"):
        optim.error_feedback(optim.dense_mean("data"), axis_name="data")


def test_one_axis_is_named(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    axes, specs = ("slices", "chips"), PartitionSpec()
    for method in (
        exchange.check_axis,
        lambda axes: optim.gathered(optim.top_k(), axes),
        optim.dense_mean,
        lambda axes: optim.hierarchical(optim.dense_mean("data"), axes),
        lambda axes: optim.reduce_scatter(optim.top_k(), axes, specs),
        lambda axes: optim.all_gather(optim.identity(), jnp.ones(2), axes, specs),
        optim.dgc,
        optim.fetch_sgd,
        lambda axes: optim.error_feedback(optim.top_k(), axis_name=axes),
        lambda axes: optim.private_mean(1.0, 1.0, seed=0, axis_name=axes),
    ):
        with pytest.raises(UnsupportedInput, match="the name of one axis"):
            method(axes)


def test_what_meets_runs_where_the_axis_is_named():
    signs = optim.compressed_mean(optim.sign(), "data")
    for method in (
        optim.error_feedback(signs),
        optim.error_feedback(optim.gathered(optim.top_k(), "data")),
        optim.error_feedback(optim.top_k(), axis_name="data"),
        optim.ef21(optim.power_sgd(1, ("data",))),
        optim.compressed(optim.summed(optim.srht(), "data")),
        optim.compressed(optim.hierarchical(signs, "chips")),
        optim.dgc("data", clip=1.0),
        optim.one_bit_adam(0.1, signs, warm_up=1),
        optim.outer(optax.sgd(1.0), signs, every=1),
        optim.reduce_scatter(optim.sign(), "data", PartitionSpec("data")),
        optim.fetch_sgd("data"),
        optim.private_mean(1.0, 1.0, seed=0, axis_name="data"),
    ):
        with pytest.raises(UnsupportedInput, match="shard_map or vmap around this that names"):
            jax.eval_shape(lambda x, m=method: m.update(x, m.init(x), x), jnp.ones((8, 8)))
    with pytest.raises(UnsupportedInput, match="give their sizes"):
        optim.traffic(signs.init, jnp.ones(8))
