"""Adaptive coding: the round trip, near the order-0 entropy without a table, on any alphabet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.coding import adaptive, from_bytes, to_bytes


def entropy_bits(symbols):
    counts = np.unique(symbols, return_counts=True)[1]
    return -(counts * np.log2(counts / counts.sum())).sum()


@pytest.mark.parametrize(("alphabet", "concentration"), [(2, 0.2), (256, 0.05)])
def test_near_the_entropy_without_a_table(alphabet, concentration):
    rng = np.random.default_rng(alphabet)
    pmf = rng.dirichlet(np.full(alphabet, concentration))
    symbols = rng.choice(alphabet, 60_000, p=pmf)
    data = to_bytes(adaptive.encode(symbols, alphabet=alphabet))
    back = adaptive.decode(from_bytes(data), len(symbols), alphabet=alphabet)
    np.testing.assert_array_equal(back, symbols)
    ideal = entropy_bits(symbols) / 8
    # What learning costs: half a log of the count per symbol in use, and one uniform block.
    used = len(np.unique(symbols))
    learning = (used * np.log2(len(symbols)) / 2 + adaptive.BLOCK * np.log2(alphabet)) / 8
    assert ideal < len(data) < 1.01 * ideal + learning + 160
    assert len(data) < len(symbols) * np.log2(alphabet) / 8 * 0.9


def test_it_follows_the_counts_not_a_fixed_table():
    # The identity limit: uniform symbols cost their own size, no less.
    symbols = np.random.default_rng(0).integers(0, 256, 20_000)
    size = len(to_bytes(adaptive.encode(symbols)))
    assert 20_000 < size < 20_600


def test_it_runs_under_jit_and_in_short():
    symbols = jnp.arange(700, dtype=jnp.int32) % 7

    @jax.jit
    def both(symbols):
        stream = adaptive.encode(symbols, alphabet=7, lanes=16)
        return adaptive.decode(stream, 700, alphabet=7)

    np.testing.assert_array_equal(both(symbols), symbols)
    empty = adaptive.encode(np.zeros(0, np.int32))
    assert adaptive.decode(empty, 0).shape == (0,)


def test_bad_input_is_named():
    with pytest.raises(jc.JaxcompError, match="expected symbols 0 to 6, got 7"):
        adaptive.encode(np.array([1, 7]), alphabet=7)
    with pytest.raises(jc.CorruptStream, match="initial state"):
        adaptive.decode(adaptive.encode(np.arange(100)), 99)
