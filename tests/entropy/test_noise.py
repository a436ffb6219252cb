"""Additive noise: uniform, reproducible, and its density is what bits says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.entropy import add_uniform_noise, laplace

pytestmark = pytest.mark.usefixtures("quick_file")


def test_noise_is_uniform_and_fresh_for_every_element():
    y = jnp.full((200, 100), 3.0)
    noise = np.asarray(add_uniform_noise(jax.random.key(0), y)) - 3.0
    assert noise.min() >= -0.5 and noise.max() < 0.5
    np.testing.assert_allclose(noise.mean(), 0, atol=0.01)
    np.testing.assert_allclose(noise.var(), 1 / 12, rtol=0.02)
    assert len(np.unique(noise)) > 0.9 * noise.size


def test_the_histogram_of_noisy_values_is_the_density_that_bits_says():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.laplace(0, 0.7, 400_000), jnp.float32)
    noisy = np.asarray(add_uniform_noise(jax.random.key(1), x))
    width = 0.125
    edges = np.arange(-3, 3 + width, width)
    density = np.histogram(noisy, edges)[0] / len(noisy) / width
    centres = (edges[:-1] + edges[1:]) / 2
    expected = np.exp2(-np.asarray(laplace().bits({}, centres, 0.7)))
    np.testing.assert_allclose(density, expected, atol=0.01)
