"""Rounding takes the integer of least cost: checked against the cost of every candidate."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.codecs.latent_prior import SCALES
from jaxcomp.codecs.latent_rounding import MOST_BITS, decide


def bits(scale, n):
    low, high = (math.erf((n + side) / scale / math.sqrt(2)) for side in (-0.5, 0.5))
    return min(-math.log2(max((high - low) / 2, 1e-30)), MOST_BITS)


@pytest.mark.parametrize("row", [0, 8, 16, 24, 32, 48])
@pytest.mark.parametrize("weight", [0.03, 0.058, 0.12])
def test_it_is_the_integer_of_least_cost(row, weight):
    x = np.linspace(-1.4, 1.4, 400).astype(np.float32)
    found = np.asarray(decide(jnp.asarray(x), jnp.full(x.shape, row), weight))
    scale = float(SCALES[row])
    cost = [(abs(x) - n) ** 2 + weight * bits(scale, n) for n in range(4)]
    chosen = np.take_along_axis(np.stack(cost), np.abs(found).astype(int)[None], 0)[0]
    # Beyond 1 two numbers stand for all differences of bits, and 0 is not tried.
    near = np.abs(x) < 1
    np.testing.assert_allclose(chosen[near], np.min(cost, 0)[near], atol=1e-5)
    assert (chosen <= np.min(cost[1:], 0) + 0.3 * weight * MOST_BITS).all()
    assert (found * x >= 0).all()


def test_without_a_price_it_rounds_to_the_nearest():
    x = np.linspace(-40, 40, 997).astype(np.float32)
    np.testing.assert_array_equal(decide(jnp.asarray(x), jnp.full(x.shape, 20), 0.0), np.round(x))
