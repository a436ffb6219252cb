"""The share of the space of rounding: closed forms, and what moves it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.formats.transformed import rounded
from jaxcomp.kernels.hadamard import rotation
from jaxcomp.measures import quantisation_space_utilisation
from tests.checks import check_measure

utilisation = jax.jit(quantisation_space_utilisation)
D = 32
NORMAL = np.random.default_rng(0).normal(size=(4000, D)).astype(np.float32)
OUTLIERS = NORMAL * np.where(np.arange(D) < 2, 20, 1).astype(np.float32)


def test_of_corners_and_of_one_dimension():
    # Corners of the cube have variance 1/4: in one dimension the ellipsoid is the cube.
    corners = np.float32([[1], [-1]])
    np.testing.assert_allclose(utilisation(corners), 1, rtol=1e-5)
    square = np.float32([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    np.testing.assert_allclose(utilisation(square), np.sqrt(np.pi / 2), rtol=1e-5)


def test_outliers_lower_it_and_a_rotation_of_them_raises_it_as_errors_of_rounding_say():
    turned = OUTLIERS @ rotation(D)
    shares = [float(utilisation(x)) for x in (NORMAL, turned, OUTLIERS)]
    assert shares[0] > 1.1 * shares[1] > 1.5 * shares[2]
    errors = [
        float(((rounded(jnp.asarray(x), "int4") - x) ** 2).mean()) for x in (turned, OUTLIERS)
    ]
    assert errors[0] < 0.5 * errors[1]


def test_scales_of_rows_do_not_matter_and_rows_of_zeros_do_not_count():
    by_row = NORMAL * np.exp(np.random.default_rng(1).normal(size=(4000, 1))).astype(np.float32)
    np.testing.assert_allclose(utilisation(by_row), utilisation(NORMAL), rtol=1e-4)
    half = np.where(np.arange(4000)[:, None] < 2000, NORMAL, 0)
    np.testing.assert_allclose(utilisation(half), utilisation(NORMAL[:2000]), rtol=1e-5)


def test_a_plane_has_no_volume_and_no_rows_are_refused():
    assert utilisation(NORMAL[:D]) == 0
    assert utilisation(NORMAL[:, :1] * np.ones(D, np.float32)) == 0
    assert utilisation(np.zeros_like(NORMAL)) == 0
    with pytest.raises(jc.UnsupportedInput, match="a batch of vectors"):
        utilisation(NORMAL[:0])


def test_measures_under_jit_and_has_a_gradient():
    check_measure(quantisation_space_utilisation, OUTLIERS)
    assert jnp.isfinite(jax.jit(jax.grad(quantisation_space_utilisation))(OUTLIERS)).all()
