"""A grid of densities: the law with two indexes, the same as location_scale with one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.entropy import gaussian, gaussian_log_mass, indexed, scaled
from tests.checks import check_entropy_model

pytestmark = pytest.mark.usefixtures("quick_file")

RANGES = (7, 12)


def parameters(indexes):
    """A mean in steps of 1 / 8 and a scale in steps of 40 %."""
    return 0.3 * 1.4 ** indexes[..., 1], (indexes[..., 0] - 3) / 8


def model():
    return indexed(scaled(gaussian_log_mass), RANGES, parameters)


def test_the_law_with_two_indexes():
    rng = np.random.default_rng(0)
    indexes = rng.integers(0, RANGES, (40_000, 2)).astype(np.int32)
    scale, mean = parameters(indexes)
    symbols = np.rint(rng.normal(mean, scale)).astype(np.int32)
    check_entropy_model(model(), {}, symbols, indexes)
    np.testing.assert_array_equal(
        model().index({}, symbols.shape, indexes + 0.4), indexes[:, 0] * 12 + indexes[:, 1]
    )


def test_one_index_is_a_scale_table():
    scales = np.geomspace(0.5, 16, 11).astype(np.float32)
    single = indexed(
        scaled(gaussian_log_mass), (11,), lambda i: (0.5 * 2 ** (i[..., 0] / 2), jnp.zeros(()))
    )
    y, row = jnp.arange(11.0), np.arange(11, dtype=np.int32)
    same = gaussian(scales=scales)
    np.testing.assert_allclose(single.bits({}, y, row[:, None]), same.bits({}, y, row), rtol=1e-5)
    np.testing.assert_allclose(
        np.asarray(single.tables({}).entries >> 16).astype(int),
        np.asarray(same.tables({}).entries >> 16).astype(int),
        atol=2,
    )


def test_indexes_are_bounded_and_come_back():
    made = model()
    far = jnp.array([-9.0, 99.0])
    np.testing.assert_array_equal(
        made.bits({}, 2.0, far), made.bits({}, 2.0, jnp.array([0.0, 11.0]))
    )
    assert made.index({}, (), far) == 11
    slope = jax.grad(lambda i: made.bits({}, 2.0, i))(far)
    assert slope[0] < 0 and slope[1] > 0  # both towards the grid
    for call in (
        lambda: made.bits({}, 0.0, jnp.zeros(3)),
        lambda: indexed(gaussian_log_mass, (), parameters),
    ):
        with pytest.raises(jc.JaxcompError, match="index"):
            call()
