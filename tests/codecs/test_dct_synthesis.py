"""From integers to coefficients: reconstruction points, and means from their differences."""

import numpy as np

from jaxcomp.codecs import dct_synthesis as synthesis
from jaxcomp.codecs.dct_coder import predict_means
from jaxcomp.codecs.dct_context import CODING_ORDER, PLANES
from jaxcomp.codecs.dct_geometry import CAPACITIES, geometry
from jaxcomp.codecs.dct_transform import LIMIT, VALUE_BITS

GRID = geometry(6, 8, CAPACITIES[0])


def test_means_invert_their_differences():
    means = np.zeros(CAPACITIES[0], np.int64)
    means[:48] = np.random.default_rng(0).integers(-500, 500, 48)
    differences = np.where(GRID.valid == 1, means - predict_means(means, GRID, np), 0)
    np.testing.assert_array_equal(synthesis._means(differences, GRID)[:48], means[:48])


def test_magnitudes_stand_for_their_points():
    offsets = np.tile(np.array([[8, -4, 2]], np.int64), (400, 1))
    values = np.zeros((1, CAPACITIES[0]), np.int32)
    values[0, :5] = [0, 1, -2, 7, 1 << 13]
    tables = np.zeros(values.shape, np.uint16)
    plane = np.array([3])  # not a plane of means
    step = 10 * 16
    out = synthesis.reconstruct(offsets, GRID, step, plane, tables, values)
    expected = np.array([0, 1 + 8 / 64, -(2 - 4 / 64), 7 + 2 / 64]) * 10 * 2**VALUE_BITS
    assert out.shape == (PLANES, CAPACITIES[0])
    np.testing.assert_allclose(out[CODING_ORDER[3], :4], expected, atol=0.5)
    assert out[CODING_ORDER[3], 4] == LIMIT
    assert not np.delete(out, CODING_ORDER[3], 0).any()
