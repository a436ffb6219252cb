"""Power laws: a closed form checked by sums, the law with a heavy tail, logarithmic costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.entropy import find_tails, power_law, power_law_log_mass, power_law_penalty, scaled
from tests.checks import check_entropy_model

pytestmark = pytest.mark.usefixtures("quick_file")


def draw(rng, scale, exponent, shape):
    """|X| = scale (U**(-1 / exponent) - 1), with a random sign."""
    size = scale * (rng.random(shape) ** (-1 / exponent) - 1)
    return size * rng.choice([-1, 1], shape)


def test_the_law_with_heavy_tails():
    scale, exponent = np.array([0.3, 1.0, 4.0]), np.array([1.3, 2.0, 3.0])
    y = np.rint(draw(np.random.default_rng(0), scale, exponent, (20_000, 3)))
    params = {
        "log_scale": jnp.asarray(np.log(scale), jnp.float32),
        "log_exponent": jnp.asarray(np.log(exponent), jnp.float32),
    }
    check_entropy_model(power_law(3), params, y.astype(np.int32))


def test_masses_are_differences_of_the_tail():
    edges = np.concatenate([np.linspace(-5, 5, 41), [40.0, 4e3, 1e6]])
    survival = 0.5 * (1 + np.abs(edges)) ** -1.5
    cdf = np.where(edges < 0, survival, 1 - survival)
    masses = np.exp(power_law_log_mass(*map(np.float32, (edges[:-1], edges[1:])), 1.5))
    np.testing.assert_allclose(masses, np.diff(cdf), rtol=1e-4)
    lower, upper = find_tails(lambda a, b: scaled(power_law_log_mass)(a, b, 2.0, 1.0, 1.5), 1, 1e-3)
    np.testing.assert_allclose(upper, 1 + 2 * (1e-3 ** (-1 / 1.5) - 1), rtol=1e-4)
    np.testing.assert_allclose(lower + upper, 2, atol=1e-2)


def test_large_values_cost_their_logarithm_with_finite_slopes():
    model = power_law(1)
    params = model.init()
    y = jnp.array([[100.0], [1000.0], [-1e4]])
    np.testing.assert_allclose(
        np.diff(np.asarray(model.bits(params, y))[:, 0]), 2 * np.log2(10), rtol=0.01
    )
    at = jnp.array([[0.0], [0.5], [1000.0]])
    slopes = jax.grad(lambda p, y: model.bits(p, y).sum(), (0, 1))(params, at)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_the_penalty_grows_like_the_bits_of_an_exponent_of_zero():
    y = jnp.array([-3.0, 0.0, 0.99])
    np.testing.assert_allclose(power_law_penalty(y), np.log([301, 1, 100]), rtol=1e-6)
    assert jax.grad(power_law_penalty)(0.01) > 0
