"""Top-k: exact, the best choice of k entries, and the approximate one beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import UnsupportedInput, optim
from tests.checks_optim import check_compressor
from tests.optim.inputs import hard


def test_the_law():
    even = np.ones((1, 600), np.float32)
    worst = check_compressor(optim.top_k(0.05), np.concatenate([hard(), even]))
    np.testing.assert_allclose(worst.max(), 0.95, rtol=1e-6)  # met where all are equal


def test_it_sends_the_largest_as_they_are():
    x = hard()[1].reshape(30, 20)
    method = optim.top_k(0.05)
    sent, _ = jax.jit(method.compress)(None, x, ())
    assert sent.nbytes == 30 * 4 + 15 + 9  # 4 low bits of a place, then 30 ones and 38 zeros
    least = np.sort(np.abs(x).reshape(-1))[-30]
    np.testing.assert_array_equal(
        jax.jit(method.decompress)(sent), np.where(np.abs(x) >= least, x, 0)
    )


def test_the_approximate_one_finds_most_of_it():
    method = optim.top_k(0.05, recall=0.9)
    x = jnp.asarray(hard()[0])
    kept, best = jax.jit(
        lambda x: [m.decompress(m.compress(None, x, ())[0]) for m in (method, optim.top_k(0.05))]
    )(x)
    assert jnp.square(kept).sum() >= 0.9 * jnp.square(best).sum()
    assert ((kept == 0) | (kept == x)).all()


def test_impossible_options_are_named():
    with pytest.raises(UnsupportedInput, match="recall above 0 and at most 1"):
        optim.top_k(0.05, recall=1.5)
