"""What cachegen finds in keys and values: bins, means, weights, tables."""

import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.kvcache.cachegen_fit import KEYS, fit_layer, query_sizes, units
from jaxcomp.kvcache.cachegen_model import bin_sizes
from tests.kvcache.contexts import context


def layers():
    return [x[0].reshape(2000, 32).astype(np.float64) for x in context(1, 2000)]


def test_bins_means_and_weights_are_those_of_the_source():
    for x, share, weight in zip(layers(), (KEYS, 1.0), (7, 0), strict=True):  # 0.9, and nothing
        model = fit_layer(x, 0.5 * units(x, share), 256)
        wanted = 0.5 * share * np.sqrt(x.var(0).mean())
        # The nearest quarter of an octave.
        np.testing.assert_allclose(bin_sizes(model.step), wanted, rtol=2**0.125 - 1)
        off = bin_sizes(model.step) * model.mean / 4 - x.mean(0)
        assert (abs(off) <= bin_sizes(model.step) / 8 * 1.0001).all()
        assert (abs(model.weight - weight) <= 1).all()


def test_a_layer_of_zeros_has_bins_and_huge_channels_have_codes():
    for x in (np.zeros((9, 3)), np.stack([np.full(9, 1e9), np.arange(9), np.zeros(9)], 1)):
        size = bin_sizes(fit_layer(x, units(x, None), 4).step)
        assert (size > 0).all() and (abs(x / size) < 1 << 20).all()


def test_keys_are_as_fine_as_queries_are_large():
    rms = np.geomspace(0.01, 4, 32)
    wanted = 1 / np.maximum(rms, np.sqrt(np.square(rms).mean()) / 4)
    np.testing.assert_allclose(units(layers()[0], rms), wanted)
    assert np.isfinite(units(layers()[0], np.zeros(32))).all()
    queries = np.random.default_rng(0).normal(size=(2, 500, 6, 4)) * np.repeat([[1], [2]], 3, 0)
    found = query_sizes(queries, np.zeros((2, 9, 2, 4)))  # three query heads share each
    np.testing.assert_allclose(found, np.repeat([[1, 2]], 4, 1).repeat(2, 0), rtol=0.1)
    with pytest.raises(jc.UnsupportedInput, match="a multiple of 2, 4. for keys"):
        query_sizes(queries[:, :, :5], np.zeros((2, 9, 2, 4)))
