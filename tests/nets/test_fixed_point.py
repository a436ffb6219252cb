"""Grids: floats and integers move on them alike, and gradients know where they end."""

from fractions import Fraction
from math import floor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.base import JaxcompError
from jaxcomp.nets.fixed_point import (
    FixedPoint,
    add,
    check,
    dequantise,
    fake_quantise,
    power_of_two,
    quantise,
    rescale,
    shift_round,
)

GRIDS = [FixedPoint(8, 4), FixedPoint(6, 0), FixedPoint(16, 9), FixedPoint(16, -3)]
GRIDS += [FixedPoint(24, 20), FixedPoint(4, -6)]


def _every(grid):
    ends = [grid.low, grid.low + 1, -1, 0, 1, grid.high - 1, grid.high]
    inside = np.random.default_rng(0).integers(grid.low, grid.high + 1, 500)
    return np.concatenate([ends, inside]).astype(grid.dtype)


@pytest.mark.parametrize("grid", GRIDS)
def test_integers_survive_the_floats(grid):
    x = _every(grid)
    np.testing.assert_array_equal(quantise(dequantise(x, grid), grid), x)
    np.testing.assert_array_equal(fake_quantise(dequantise(x, grid), grid), dequantise(x, grid))
    assert quantise(np.float32([1e30, -1e30]), grid).tolist() == [grid.high, grid.low]


@pytest.mark.parametrize("target", GRIDS)
@pytest.mark.parametrize("source", GRIDS)
def test_rescale_is_exact_arithmetic_for_integers_and_floats(source, target):
    x = _every(source)
    y = rescale(x, source, target)
    factor = Fraction(2) ** (target.fraction - source.fraction)
    exact = [floor(int(v) * factor + Fraction(1, 2)) for v in x]
    np.testing.assert_array_equal(y, np.clip(exact, target.low, target.high))
    assert y.dtype == target.dtype
    np.testing.assert_array_equal(
        rescale(dequantise(x, source), source, target), dequantise(y, target)
    )


def test_shift_round_rounds_halves_up():
    x = np.array([-12, -8, -7, -4, -1, 0, 3, 4, 2**30 - 4], np.int32)
    np.testing.assert_array_equal(shift_round(x, 3), [-1, -1, -1, 0, 0, 0, 0, 1, 2**27])
    np.testing.assert_array_equal(shift_round(x, 0), x)


@pytest.mark.parametrize("grid", GRIDS)
def test_add_saturates_alike(grid):
    x, y = _every(grid), _every(grid)[::-1]
    total = add(x, y, grid)
    wanted = np.clip(x.astype(np.int64) + y, grid.low, grid.high)
    np.testing.assert_array_equal(total, wanted)
    floats = add(dequantise(x, grid), dequantise(y, grid), grid)
    np.testing.assert_array_equal(floats, dequantise(total, grid))


def test_the_gradient_passes_inside_and_inward_only():
    grid = FixedPoint(8, 4)
    x = jnp.array([-20.0, -20.0, 0.3, 0.3, 20.0, 20.0])
    sign = jnp.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    gradient = jax.grad(lambda x: (fake_quantise(x, grid) * sign).sum())(x)
    # Descent moves against the gradient: out of the range only where it is stopped.
    np.testing.assert_array_equal(gradient, [0, -1, 1, -1, 1, 0])


def test_powers_of_two_are_exact():
    exponents = np.arange(-126, 128, dtype=np.int32)
    wanted = np.ldexp(np.float32(1), exponents)
    np.testing.assert_array_equal(jax.jit(power_of_two)(exponents), wanted)


def test_refusals():
    for grid in (FixedPoint(1, 0), FixedPoint(25, 0), FixedPoint(8, 40)):
        with pytest.raises(JaxcompError, match="choose others"):
            check(grid)
    with pytest.raises(JaxcompError, match="one kind"):
        add(np.zeros(3, np.int8), np.zeros(3, np.float32), FixedPoint())
