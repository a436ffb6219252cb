"""Random-k: unbiased or contracting, and the receiver draws the places from the key."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp import optim
from tests.checks_optim import check_compressor
from tests.optim.inputs import hard


def test_the_law():
    # Means over 256 keys say nothing of what is drawn once in ten and is all of x.
    spread = hard()[[0, 4]]
    np.testing.assert_allclose(check_compressor(optim.random_k(0.1), spread), 9, rtol=0.05)
    biased = optim.random_k(0.1, unbiased=False)
    np.testing.assert_allclose(check_compressor(biased, hard()[:5]), 0.9, atol=0.03)


def test_a_key_of_8_bytes_says_where():
    method = optim.random_k(0.1, unbiased=False)
    x = jnp.arange(1.0, 101)
    sent, _ = jax.jit(method.compress)(jnp.array([1, 2], jnp.uint32), x, ())
    assert sent.nbytes == 4 * 10 + 8
    back = np.asarray(jax.jit(method.decompress)(sent))
    assert np.count_nonzero(back) == 10
    assert ((back == 0) | (back == x)).all()


def test_the_draw_is_even():
    method = optim.random_k(0.25)
    keys = np.random.default_rng(0).integers(0, 1 << 32, (4000, 2), np.uint32)
    x = jnp.ones(8)
    drawn = jax.jit(jax.vmap(lambda k: method.decompress(method.compress(k, x, ())[0])))(keys)
    np.testing.assert_allclose(drawn.mean(0), 1, atol=0.12)
