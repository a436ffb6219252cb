"""Rounding with an offset: exact values, the slope of the identity, offsets at the median."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.entropy import (
    dequantise,
    gaussian_log_mass,
    noisy_bits,
    quantisation_offset,
    quantise,
    scaled,
    straight_through_round,
)

Y = jnp.array([-1.6, -0.5, 0.2, 0.5, 1.5, 1e6 + 0.25])


def test_values_are_rounded_and_slopes_are_the_identity():
    np.testing.assert_array_equal(straight_through_round(Y), jnp.round(Y))
    np.testing.assert_array_equal(straight_through_round(Y, 0.25), jnp.round(Y - 0.25) + 0.25)
    slopes = jax.grad(lambda y, o: (straight_through_round(y, o) * Y).sum(), (0, 1))(Y, 0.25)
    np.testing.assert_array_equal(slopes[0], Y)
    assert slopes[1] == 0
    value, tangent = jax.jvp(straight_through_round, (Y,), (2 * Y,))
    np.testing.assert_array_equal(tangent, 2 * Y)


def test_integers_and_what_they_stand_for():
    symbols = quantise(Y, 0.25)
    assert symbols.dtype == jnp.int32
    np.testing.assert_array_equal(dequantise(symbols, 0.25), straight_through_round(Y, 0.25))
    np.testing.assert_array_equal(dequantise(quantise(Y)), jnp.round(Y))


def test_the_offset_puts_a_narrow_density_into_one_bin():
    mean = jnp.array([0.5, -3.45, 12.0, 700.26])
    log_mass = scaled(gaussian_log_mass)
    offset = quantisation_offset(lambda a, b: log_mass(a, b, 0.05, mean), 4)
    np.testing.assert_allclose(np.abs(offset), [0.5, 0.45, 0, 0.26], atol=1e-3)
    y = jnp.round(mean - offset) + offset
    assert (noisy_bits(log_mass, y, 0.05, mean) < 1e-3).all()
    assert noisy_bits(log_mass, jnp.round(mean), 0.05, mean)[0] > 0.99  # half the mass, without
