"""Student's t: scipy's tails for many degrees of freedom, gradients far out, the law, outliers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxcomp as jc
from jaxcomp.entropy import gaussian, gaussian_log_mass, student_t, student_t_log_mass
from tests.entropy.cases import check_bits_against, check_gradients, check_location_scale

pytestmark = pytest.mark.usefixtures("quick_file")


@pytest.mark.parametrize("degrees", [0.7, 1.0, 4.0, 30.0])
def test_bits_are_those_of_scipy(degrees):
    def log_mass(lower, upper):
        return student_t_log_mass(lower, upper, degrees)

    check_bits_against(log_mass, stats.t(degrees))


def test_gradients_far_out_and_near():
    check_gradients(student_t_log_mass)


def test_the_law_at_every_scale():
    check_location_scale(student_t(), lambda rng, scale: scale * rng.standard_t(4, len(scale)))


def test_outliers_cost_their_logarithm():
    y = jnp.array([10.0, 100.0, 1000.0])
    bits = np.asarray(student_t(4.0).bits({}, y, 1.0))
    np.testing.assert_allclose(np.diff(bits), 5 * np.log2(10), rtol=0.01)
    assert gaussian().bits({}, 1000.0, 1.0) > 1e4 * bits[2]


def test_many_degrees_are_a_gaussian():
    edges = jnp.linspace(-3, 3, 25)
    masses = [
        np.exp(np.asarray(f(edges[:-1], edges[1:])))
        for f in (lambda a, b: student_t_log_mass(a, b, 200.0), gaussian_log_mass)
    ]
    np.testing.assert_allclose(*masses, rtol=0.07)  # t has more at 3 deviations
    whole = jax.jit(lambda: jnp.exp(student_t_log_mass(-3.0, jnp.inf, 200.0)))()
    np.testing.assert_allclose(whole, stats.t.sf(-3.0, 200), rtol=1e-5)


@pytest.mark.parametrize("degrees", [0.0, -1.0, 300.0])
def test_other_degrees_are_refused(degrees):
    with pytest.raises(jc.JaxcompError, match="degrees_of_freedom"):
        student_t(degrees)
