"""Logarithms of magnitudes: near log2, the same in floats and integers, with the right slope."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.nets.fixed_point import FixedPoint
from jaxcomp.nets.logarithm import log2_whole, signed_logarithms

SOURCE, TARGET = FixedPoint(16, 4), FixedPoint(8, 4)


def test_it_is_near_the_logarithm_and_exact_at_powers_of_two():
    x = np.arange(1, 1 << 15, dtype=np.int32)
    found = np.asarray(log2_whole(jnp.asarray(x), 4)) / 16
    below = np.log2(x) - found  # 0.0861 by the line, 1/16 by rounding down
    assert below.min() >= 0 and below.max() < 0.0861 + 1 / 16
    powers = 1 << np.arange(15)
    np.testing.assert_array_equal(found[powers - 1], np.arange(15))


def test_floats_are_what_integers_stand_for():
    x = np.arange(SOURCE.low, SOURCE.high + 1, 7)
    x = jnp.asarray(x, jnp.int16)[None]
    exact = signed_logarithms(x, SOURCE, TARGET)
    assert exact.dtype == jnp.int8 and exact.shape == (1, 2 * x.shape[1])
    floats = signed_logarithms(jnp.asarray(x, jnp.float32) / 16, SOURCE, TARGET)
    np.testing.assert_array_equal(floats * 16, exact)
    sign, size = np.split(np.asarray(exact), 2, -1)
    # Saturated, a negative one is -128.
    np.testing.assert_array_equal(np.maximum(sign, -127), np.sign(x) * size)
    assert (size >= 0).all() and (np.diff(size[x >= 0]) >= 0).all()


def test_the_gradient_is_the_slope_of_the_line():
    x = jnp.asarray([[-5.0, -0.25, 0.0, 0.5, 2.9, 40.0]])
    both = jax.grad(lambda x: signed_logarithms(x, SOURCE, TARGET).sum())(x)[0]
    size = jax.grad(lambda x: signed_logarithms(x, SOURCE, TARGET, False).sum())(x)[0]
    # 1 + |x| lies in [2**k, 2**(k + 1)): the slope is 2**-k.
    slope = np.array([1 / 4, 1, 1, 1, 1 / 2, 1 / 32])
    np.testing.assert_allclose(size, slope * np.sign(x[0]))
    np.testing.assert_allclose(both, slope * (1 + np.sign(x[0])))
