"""Grids of values for a bound: no wider apart than it allows, and not much narrower."""

import numpy as np
import pytest

from jaxcomp.coding.error_bound_grid import Uniform, logarithmic, within_absolute, within_relative


@pytest.mark.parametrize("r", [0.9, 0.5, 0.1, 1e-3, 1e-6, 1e-9])
def test_levels_are_as_far_apart_as_the_bound_lets_them(r):
    grid = logarithmic(r)
    x = np.exp(np.random.default_rng(0).uniform(-300, 300, 3000))
    with np.errstate(all="ignore"):
        y = grid.values(grid.levels(x, r).astype(np.int64))
    assert within_relative(x, y, r).mean() > 0.999
    octaves = np.log2((1 + r) / (1 - r))
    assert 1 - 1e-9 <= grid.count * octaves / grid.period < 1.25


def test_octaves_are_shared_where_one_alone_would_waste_levels():
    # 3.45 levels in an octave: 4 in one would be 16 % too many, 7 in two are 1.3 %.
    grid = logarithmic(0.1)
    assert grid.period > 1 and grid.count * np.log2(1.1 / 0.9) / grid.period < 1.02
    assert logarithmic(1e-11) is None


def test_the_nearest_multiple_is_within_half_a_step():
    x = np.random.default_rng(0).standard_normal(1000)
    grid = Uniform(0.02)
    assert within_absolute(x, grid.values(grid.levels(x).astype(np.int64)), 0.01 + 1e-15).all()
    assert not within_absolute(x, grid.values(grid.levels(x).astype(np.int64)), 0.009).all()


def test_what_is_within_a_bound_is_decided_exactly():
    def within(x, y, bound):
        return bool(within_absolute(np.array([x]), np.array([y]), bound)[0])

    assert within(1.0, 3.0, 2.0) and not within(1.0, 3.0, np.nextafter(2.0, 0))
    assert not within(2.0**53, -0.75, 2.0**53)  # the difference rounds to the bound
    assert within(2.0**53, 0.75, 2.0**53)
    assert within(np.inf, np.inf, 0.5) and not within(np.nan, np.nan, 0.5)
    tiny = np.array([5e-324])
    assert within_relative(tiny, tiny, 0.1).all() and not within_relative(tiny, 0 * tiny, 0.9).any()
