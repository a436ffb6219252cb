"""Tail finding: quantiles of known distributions, tiny and huge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxcomp.entropy import find_tails, gaussian_log_mass, laplace_log_mass, scaled

pytestmark = pytest.mark.usefixtures("quick_file")

SCALES = np.array([0.01, 1.0, 50.0, 1e4], np.float32)
MEANS = np.array([3.0, -0.2, 700.0, -5.0], np.float32)


@pytest.mark.parametrize(
    "log_mass, distribution", [(gaussian_log_mass, stats.norm), (laplace_log_mass, stats.laplace)]
)
@pytest.mark.parametrize("tail_mass", [0.5, 2.0**-8, 1e-20])
def test_tails_are_the_quantiles_of_scipy(log_mass, distribution, tail_mass):
    lower, upper = find_tails(
        lambda a, b: scaled(log_mass)(a, b, SCALES, MEANS), len(SCALES), tail_mass
    )
    np.testing.assert_allclose(
        lower, distribution.ppf(tail_mass / 2, MEANS, SCALES), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        upper, distribution.isf(tail_mass / 2, MEANS, SCALES), rtol=1e-4, atol=1e-5
    )


def test_they_are_found_while_tracing_too():
    def scaled_tails(x):
        lower, upper = find_tails(gaussian_log_mass, 1, 0.1)
        return x * jnp.asarray(upper - lower)

    np.testing.assert_allclose(jax.jit(scaled_tails)(1.0), 2 * stats.norm.isf(0.05), rtol=1e-5)
