"""What exchanges are made of: rings, shards, and the exchange of a lone sender."""

import jax.numpy as jnp
import numpy as np
import pytest

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
    assert lone.axes == () and lone.nbytes(jnp.zeros(2)) == 5


def test_an_exchange_has_axes_of_its_own():
    with pytest.raises(UnsupportedInput, match="axis_name with a compressor alone"):
        optim.error_feedback(optim.dense_mean("data"), axis_name="data")


def test_one_axis_is_named():
    with pytest.raises(UnsupportedInput, match="the name of one axis"):
        exchange.check_axis(("slices", "chips"))
