"""Soft rounding: both limits, the inverse, the conditional mean by simulation, finite slopes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.entropy import soft_round, soft_round_conditional_mean, soft_round_inverse

X = jnp.linspace(-2.4, 2.4, 97)


def test_the_limits_are_the_identity_and_rounding():
    np.testing.assert_array_equal(soft_round(X, 0.0), X)
    np.testing.assert_array_equal(soft_round_inverse(X, 0.0), X)
    np.testing.assert_allclose(soft_round(X, 2e-3), X, atol=1e-5)
    # Halves stay where they are, for any alpha.
    away = np.abs(np.asarray(X) % 1 - 0.5) > 0.03
    np.testing.assert_allclose(soft_round(X, 300.0)[away], jnp.round(X)[away], atol=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 4.0, 13.0, 40.0])
def test_the_inverse_inverts_and_everything_increases(alpha):
    y = soft_round(X, alpha)
    assert (jnp.diff(y) >= 0).all()
    if alpha <= 13:  # beyond, float32 cannot hold where in the step x was
        np.testing.assert_allclose(soft_round_inverse(y, alpha), X, atol=2e-3)
    np.testing.assert_allclose(soft_round(soft_round_inverse(X, alpha), alpha), X, atol=2e-5)
    still = jnp.array([-2.0, -1.5, 0.0, 0.5, 3.0])
    np.testing.assert_allclose(soft_round(still, alpha), still, atol=1e-6)
    np.testing.assert_allclose(soft_round_inverse(still, alpha), still, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 16.0, 80.0])
def test_slopes_are_finite_at_integers_and_halves_too(alpha):
    at = jnp.array([-1.0, -0.5, 0.0, 0.3, 0.5, 1.0])
    for function in (soft_round, soft_round_inverse, soft_round_conditional_mean):
        by_x, by_alpha = jax.vmap(jax.grad(function, (0, 1)), (0, None))(at, alpha)
        assert np.isfinite(by_x).all() and np.isfinite(by_alpha).all()


def test_the_conditional_mean_is_the_mean_of_what_made_a_noisy_value():
    rng = np.random.default_rng(0)
    alpha = 4.0
    x = rng.uniform(-3, 3, 400_000).astype(np.float32)
    noisy = np.asarray(soft_round(x, alpha)) + rng.uniform(-0.5, 0.5, len(x))
    for y in (-1.0, -0.3, 0.0, 0.2, 0.5, 1.4):
        near = np.abs(noisy - y) < 0.01
        expected = float(soft_round_conditional_mean(y, alpha))
        np.testing.assert_allclose(x[near].mean(), expected, atol=0.02)
