"""What cachegen finds in keys and values: bins, means, weights, tables."""

import numpy as np

from jaxcomp.kvcache.cachegen_fit import fit_bins, query_sizes, scales, units
from jaxcomp.kvcache.cachegen_model import SCALES, bins, deviations
from tests.kvcache.contexts import context


def stacked():
    return np.stack(context(tokens=2000)).reshape(2, 2, 2000, 32).astype(np.float64)


def test_bins_means_and_weights_are_those_of_the_source():
    x = stacked()
    model = fit_bins(x, 0.5 * units(x, None))
    wanted = 0.5 * np.sqrt(x.var(2).mean(2)) * np.array([[0.25], [1]])
    np.testing.assert_allclose(bins(model).mean(2), wanted, rtol=2**0.125 - 1 + 1e-6)
    off = bins(model) * model.mean / 4 - x.mean(2)
    assert (abs(off) <= bins(model) / 8 * 1.0001).all()
    assert (abs(model.weight[0] - 7) <= 1).all()  # 0.9 of the token before
    assert (model.weight[1] <= 1).all()  # nothing


def test_a_layer_of_zeros_has_bins_and_huge_channels_have_codes():
    x = np.zeros((2, 2, 9, 3))
    x[0, 1, :, 0] = 1e9
    x[0, 1, :, 1] = np.arange(9)
    model = fit_bins(x, units(x, None))
    assert np.isfinite(bins(model)).all()
    assert (abs(x / bins(model)[:, :, None]) < 1 << 20).all()


def test_keys_are_as_fine_as_queries_are_large():
    x = stacked()
    rms = np.broadcast_to(np.geomspace(0.01, 4, 32), (2, 32))
    one = units(x, rms)[0]
    mean = np.sqrt(np.square(rms).mean(1, keepdims=True))
    np.testing.assert_allclose(one, 1 / np.maximum(rms, mean / 4))
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(2, 500, 6, 4)) * np.repeat([[1.0], [2.0]], 3, 0)
    found = query_sizes(queries, np.zeros((2, 9, 2, 4)))  # three query heads share each
    np.testing.assert_allclose(found, np.repeat([[1, 2]], 4, 1).repeat(2, 0), rtol=0.1)


def test_the_table_is_that_of_the_deviation():
    rng = np.random.default_rng(0)
    wanted = np.arange(4, SCALES - 4, 4)
    left = np.rint(rng.logistic(size=(1, 1, 4000, 1)) * deviations()[wanted] * np.sqrt(3) / np.pi)
    assert abs(scales(left.astype(np.int64)) - wanted).max() <= 1
    assert scales(np.zeros((1, 1, 5, 1), int)) == 0
    assert scales(np.full((1, 1, 5, 1), 1 << 20)) == SCALES - 1
