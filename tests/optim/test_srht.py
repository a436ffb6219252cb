"""Rotated, then drawn: the error of drawing at random, for every x and nearly every key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import UnsupportedInput, optim
from tests.checks_optim import check_compressor
from tests.optim.inputs import hard


@pytest.mark.parametrize("unbiased", [True, False])
def test_the_law_and_the_theory(unbiased):
    errors = check_compressor(optim.srht(0.25, block=512, unbiased=unbiased), hard(1024))
    np.testing.assert_allclose(errors[[0, 4]], 3 if unbiased else 0.75, rtol=0.1)


def test_one_large_entry_is_always_seen():
    x = jnp.zeros(256).at[3].set(1)
    keys = np.random.default_rng(0).integers(0, 1 << 32, (64, 2), np.uint32)

    def seen(method):
        one = lambda key: method.decompress(method.compress(key, x, ())[0])[3]  # noqa: E731
        return jax.jit(jax.vmap(one))(keys)

    np.testing.assert_allclose(seen(optim.srht(0.125)), 1, rtol=1e-5)
    assert (seen(optim.random_k(0.125)) == 0).mean() > 0.7  # without the rotation


def test_bytes_and_arguments():
    assert optim.wire_nbytes(optim.srht(0.1), jnp.zeros(4096)) == 410 * 4 + 8
    with pytest.raises(UnsupportedInput, match="a power of two"):
        optim.srht(block=96)
