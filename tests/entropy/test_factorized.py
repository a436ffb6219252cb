"""Deep factorized densities: a distribution, the law on a photo, better than a fixed shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.entropy import factorized, factorized_log_mass, laplace
from tests.checks import check_entropy_model
from tests.entropy.cases import fit, photo_latents

pytestmark = pytest.mark.usefixtures("quick_file")


def test_the_law_on_a_photo_and_the_gain_over_a_fixed_shape():
    latents, _ = photo_latents()
    model = factorized(16)
    y = jnp.asarray(latents, jnp.float32)
    params = fit(model.bits, model.init(), y)
    check_entropy_model(model, params, latents)
    learned = float(model.bits(params, y).mean())
    # The best Laplace distribution of each channel cannot bend.
    fixed = laplace().bits({}, y, jnp.maximum(jnp.abs(y).mean(0), 0.11)).mean()
    assert learned < 0.995 * float(fixed)


def test_mass_sums_to_one_and_never_is_negative():
    model = factorized(5)
    params = model.init(jax.random.key(3))
    # Factors bend the density: give it some.
    params["factors"] = tuple(f + 1.0 for f in params["factors"])
    y = jnp.arange(-400.0, 401.0)[:, None] + jnp.zeros(5)
    mass = np.exp2(-np.asarray(model.bits(params, y), np.float64))
    assert (mass > 0).all()
    infinite = jnp.full(5, jnp.inf)
    tails = jnp.exp(factorized_log_mass(params, -infinite, y[0] - 0.5)) + jnp.exp(
        factorized_log_mass(params, y[-1] + 0.5, infinite)
    )
    np.testing.assert_allclose(mass.sum(0) + tails, 1.0, atol=2e-5)


def test_bits_and_slopes_are_finite_far_out_and_the_tails_are_exponential():
    model = factorized(2)
    params = model.init()
    y = jnp.array([[-1000.0, -1000.0], [0.0, 0.0], [1000.0, 2000.0]])
    bits, slopes = jax.value_and_grad(lambda y, p: model.bits(p, y).sum(), (0, 1))(y, params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((bits, slopes)))
    far = np.asarray(model.bits(params, y))
    assert far[2, 1] > 1.8 * far[2, 0] > 50


def test_one_layer_is_the_logistic_distribution():
    model = factorized(1, filters=(), init_scale=4.0)
    params = model.init()
    mean = -4.0 * float(params["biases"][0][0, 0, 0])
    y = jnp.arange(-20.0, 21.0)[:, None]
    expected = jc.entropy.logistic(scales=np.array([4.0])).bits({}, y, 4.0, mean)
    np.testing.assert_allclose(model.bits(params, y), expected, rtol=1e-4)


def test_traced_params_make_no_tables():
    model = factorized(2)
    with pytest.raises(jc.JaxcompError, match="outside jit"):
        jax.jit(lambda p: model.tables(p).entries)(model.init())
