"""Masses of intervals: shifted, scaled, infinite, and the helpers in log space."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.entropy import gaussian_log_mass, noisy_bits, scaled
from jaxcomp.entropy.interval import log_one_minus_exp

pytestmark = pytest.mark.usefixtures("quick_file")


def test_logs_of_differences():
    x = np.array([1e-12, 1e-3, 0.5, 0.7, 20.0, 80.0, np.inf], np.float32)
    expected = np.log(-np.expm1(-x.astype(np.float64)))
    np.testing.assert_allclose(log_one_minus_exp(x), expected, rtol=1e-6, atol=1e-30)


def test_intervals_add_up_whatever_branch_each_takes():
    # From a hundredth of a bin to the whole line: quadrature, tails and the middle.
    edges = jnp.concatenate([jnp.linspace(-6, 6, 1201), jnp.array([7.0, 9.0, 30.0, jnp.inf])])
    edges = jnp.concatenate([jnp.array([-jnp.inf]), edges])
    masses = np.exp(np.asarray(gaussian_log_mass(edges[:-1], edges[1:]), np.float64))
    np.testing.assert_allclose(masses.sum(), 1.0, atol=1e-6)
    whole = float(gaussian_log_mass(-1.0, 2.5))
    inside = (edges[:-1] >= -1 - 1e-4) & (edges[1:] <= 2.5 + 1e-4)
    np.testing.assert_allclose(np.log(masses[np.asarray(inside)].sum()), whole, atol=1e-5)


def test_scale_and_mean_move_the_interval():
    moved = scaled(gaussian_log_mass)
    np.testing.assert_allclose(
        moved(jnp.float32(3.0), jnp.float32(7.0), 2.0, 5.0), gaussian_log_mass(-1.0, 1.0)
    )
    assert float(noisy_bits(moved, 0.0, 0.05)) < 1e-6  # all mass in one bin
