"""Rounded and soft-rounded variables: their densities by simulation, and both limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.entropy import (
    laplace_log_mass,
    mapped,
    noisy_bits,
    rounded,
    scaled,
    soft_round,
    soft_rounded,
)

pytestmark = pytest.mark.usefixtures("quick_file")

BASE = scaled(laplace_log_mass)
Y = jnp.linspace(-3.3, 3.3, 67)


def test_soft_rounded_and_noisy_is_the_histogram_of_that():
    rng = np.random.default_rng(0)
    x = rng.laplace(0.3, 0.8, 400_000).astype(np.float32)
    noisy = np.asarray(soft_round(x, 5.0)) + rng.uniform(-0.5, 0.5, len(x))
    width = 0.125
    edges = np.arange(-3, 3 + width, width)
    density = np.histogram(noisy, edges)[0] / len(x) / width
    fine = (edges[:-1, None] + width * (np.arange(8) + 0.5) / 8).astype(np.float32)
    bits = noisy_bits(soft_rounded(BASE, 5.0), fine, 0.8, 0.3)
    np.testing.assert_allclose(density, np.exp2(-np.asarray(bits)).mean(1), atol=0.012)


def test_the_limits_are_the_plain_and_the_rounded_variable():
    plain = noisy_bits(BASE, Y, 0.8, 0.3)
    np.testing.assert_allclose(noisy_bits(soft_rounded(BASE, 0.0), Y, 0.8, 0.3), plain)
    hard = noisy_bits(rounded(BASE), Y, 0.8, 0.3)
    near = np.abs(np.asarray(Y) % 1 - 0.5) > 0.1  # between two integers no density is round's
    exact = noisy_bits(BASE, jnp.round(Y), 0.8, 0.3)
    np.testing.assert_allclose(hard[near], exact[near], rtol=1e-5)
    soft = noisy_bits(soft_rounded(BASE, 80.0), Y, 0.8, 0.3)
    np.testing.assert_allclose(soft[near], hard[near], rtol=0.02)


def test_any_increasing_map_and_infinite_ends():
    doubled = mapped(BASE, lambda y: y / 2)
    np.testing.assert_allclose(doubled(-2.0, jnp.inf, 1.0), BASE(-1.0, jnp.inf, 1.0), rtol=1e-6)
    infinite = float(soft_rounded(BASE, 5.0)(jnp.float32(-jnp.inf), jnp.float32(0.0), 1.0))
    np.testing.assert_allclose(infinite, np.log(0.5), rtol=1e-6)
    slope = jax.grad(lambda a: noisy_bits(soft_rounded(BASE, a), 0.5, 0.8))(6.0)
    assert np.isfinite(slope)
