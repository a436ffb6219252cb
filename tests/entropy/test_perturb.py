"""Expected gradients: the mean of the noisy ones, without their variance."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.entropy import gaussian, perturb_and_apply

X = jnp.array([-2.0, 0.1, 0.7, 30.0])


def bits(y, scale):
    return gaussian().bits({}, y, scale)


def slopes(expected, noise):
    def total(x, scale):
        value, noisy = perturb_and_apply(bits, x, noise, scale, expected_gradients=expected)
        return value.sum()

    return jax.grad(total, (0, 1))(X, jnp.full(4, 0.8))


def test_values_are_those_at_the_noisy_inputs():
    noise = jnp.array([0.1, -0.4, 0.3, 0.49])
    value, noisy = jax.jit(lambda x, n: perturb_and_apply(bits, x, n, 0.8))(X, noise)
    np.testing.assert_array_equal(noisy, X + noise)
    np.testing.assert_allclose(value, bits(X + noise, 0.8), rtol=1e-6)


def test_slopes_are_the_mean_over_the_noise():
    noise = jnp.asarray(np.random.default_rng(0).uniform(-0.5, 0.5, (4000, 4)), jnp.float32)
    plain, plain_scale = jax.jit(jax.vmap(lambda n: slopes(False, n)))(noise)
    expected, expected_scale = jax.jit(jax.vmap(lambda n: slopes(True, n)))(noise)
    error = 5 * plain.std(0) / np.sqrt(len(noise))
    assert (np.abs(expected[0] - plain.mean(0)) < error + 1e-4).all()
    # No noise is left in them, and there was plenty; by other arguments nothing changes.
    np.testing.assert_array_equal(expected, np.broadcast_to(expected[0], expected.shape))
    assert plain[:, 1].std() > 0.1
    np.testing.assert_allclose(expected_scale, plain_scale, rtol=1e-5)


def test_the_slope_of_noisy_values_is_one():
    slope = jax.grad(lambda x: perturb_and_apply(bits, x, jnp.zeros(4), 0.8)[1].sum())(X)
    np.testing.assert_array_equal(slope, 1)
