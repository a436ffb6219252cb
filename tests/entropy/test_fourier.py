"""Fourier basis densities: a distribution, the law, and shapes that one mode cannot have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.entropy import fourier, fourier_log_mass, gaussian, logistic
from tests.checks import check_entropy_model
from tests.entropy.cases import fit

pytestmark = pytest.mark.usefixtures("quick_file")


def test_the_law_on_two_peaks_and_the_gain_over_one():
    rng = np.random.default_rng(0)
    peak = rng.integers(0, 2, (30_000, 2)) * [24, 10] - [12, 3]
    symbols = np.rint(rng.normal(peak, 2.0)).astype(np.int32)
    model = fourier(2, frequencies=8)
    y = jnp.asarray(symbols, jnp.float32)
    params = fit(model.bits, model.init(), y)
    check_entropy_model(model, params, symbols)
    learned = np.asarray(model.bits(params, y)).mean(0)
    single = np.asarray(gaussian().bits({}, y - y.mean(0), y.std(0))).mean(0)
    # 12 to both sides are 6 standard deviations: well over one bit is in the choice of the peak.
    assert learned[0] < single[0] - 0.5 and learned[1] < single[1]


def wild():
    """Coefficients of a density with deep valleys."""
    model = fourier(3, frequencies=8, init_scale=5.0)
    params = model.init()
    keys = jax.random.split(jax.random.key(4))
    shape = params["real"].shape
    return model, params | {
        "real": jax.random.normal(keys[0], shape),
        "imaginary": jax.random.normal(keys[1], shape),
    }


def test_masses_sum_to_one_and_add_up():
    _, params = wild()
    edges = jnp.concatenate(
        [jnp.array([-jnp.inf]), jnp.linspace(-40, 40, 401), jnp.array([jnp.inf])]
    )
    edges = edges[:, None] + jnp.zeros(3)
    masses = np.exp(np.asarray(fourier_log_mass(params, edges[:-1], edges[1:]), np.float64))
    np.testing.assert_allclose(masses.sum(0), 1, atol=1e-5)
    # Half a bin and its neighbour are the bin, and what integrates is |series|**2.
    whole = np.exp(np.asarray(fourier_log_mass(params, edges[100:200:2], edges[102:202:2])))
    np.testing.assert_allclose(masses[100:200:2] + masses[101:201:2], whole, rtol=2e-3, atol=1e-6)
    a = np.asarray(params["real"]) + 1j * np.asarray(params["imaginary"])
    x = np.asarray(edges[200:203, 0], np.float64)
    fine = np.linspace(x[0], x[2], 2001)
    t = np.tanh(fine / 5)
    series = np.abs(np.exp(1j * np.pi * np.arange(9) * t[:, None]) @ a.T) ** 2
    density = series / (2 * (np.abs(a) ** 2).sum(1)) * (1 - t[:, None] ** 2) / 5
    expected = np.trapezoid(density, fine, axis=0)
    np.testing.assert_allclose(masses[200:202].sum(0), expected, rtol=0.02)


def test_bits_and_slopes_are_finite_far_out():
    model, params = wild()
    y = jnp.array([-1000.0, 0.0, 1000.0])[:, None] + jnp.zeros(3)
    value, slopes = jax.value_and_grad(lambda y, p: model.bits(p, y).sum(), (0, 1))(y, params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, slopes)))
    assert (slopes[0][0] < 0).all() and (slopes[0][2] > 0).all()


def test_a_constant_series_is_the_logistic_distribution():
    model = fourier(1, init_scale=6.0)
    params = model.init()
    params = params | {
        "real": params["real"].at[:, 1:].set(0),
        "imaginary": params["imaginary"] * 0,
    }
    y = jnp.arange(-50.0, 51.0)[:, None]
    np.testing.assert_allclose(model.bits(params, y), logistic().bits({}, y, 3.0), rtol=1e-5)
