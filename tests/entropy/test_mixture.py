"""Mixtures: the law, scipy's components, the identity with one of them, better than one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxcomp.entropy import gaussian, laplace_log_mass, mixed, mixture, noisy_bits
from tests.checks import check_entropy_model
from tests.entropy.cases import fit, photo_latents


def test_the_law_on_a_photo_and_the_gain_over_one_component():
    latents, _ = photo_latents()
    y = jnp.asarray(latents, jnp.float32)
    params, bits = {}, {}
    for components in (1, 3):  # the last one is coded
        model = mixture(16, components=components)
        params = fit(model.bits, model.init(), y)
        bits[components] = float(model.bits(params, y).mean())
    check_entropy_model(model, params, latents)
    assert bits[3] < bits[1] - 0.1


def test_bits_are_those_of_the_weighted_components():
    logits, scale, mean = np.array([0.2, -1.0]), np.array([0.5, 3.0]), np.array([-2.0, 4.0])
    weights = np.exp(logits) / np.exp(logits).sum()
    y = np.arange(-8.0, 12.0)
    expected = sum(
        w * (stats.laplace.cdf(y + 0.5, m, s) - stats.laplace.cdf(y - 0.5, m, s))
        for w, m, s in zip(weights, mean, scale, strict=True)
    )
    got = noisy_bits(mixed(laplace_log_mass), y, *map(jnp.float32, (logits, scale, mean)))
    np.testing.assert_allclose(got, -np.log2(expected), rtol=1e-5)


@pytest.mark.usefixtures("quick")
def test_one_component_is_the_distribution_itself_and_far_out_is_finite():
    model = mixture(2, components=1, init_scale=3.0)
    y = jnp.array([[-1000.0, 1000.0], [0.0, 2.0]])
    np.testing.assert_allclose(model.bits(model.init(), y), gaussian().bits({}, y, 3.0), rtol=1e-5)
    many = mixture(2)
    slopes = jax.grad(lambda p, y: many.bits(p, y).sum(), (0, 1))(many.init(), y)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
