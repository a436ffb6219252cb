"""NF4: levels recomputed from the normal distribution, and what they are for."""

import numpy as np
from scipy.stats import norm

import jaxcomp as jc
from jaxcomp.formats.normal_float import NORMAL_QUANTILES
from tests.checks import check_leaf

F = jc.formats
W = np.random.default_rng(0).normal(size=(1024, 32)).astype(np.float32)


def mse(format, w=W):
    return float(((np.asarray(F.quantize(w, format).dense()) - w) ** 2).mean())


def test_levels_are_quantiles():
    most = 1 - (1 / 32 + 1 / 30) / 2
    above = norm.ppf(np.linspace(most, 0.5, 9)[:-1])
    below = -norm.ppf(np.linspace(most, 0.5, 8)[:-1])
    levels = np.sort([*above, 0, *below]) / above.max()
    np.testing.assert_allclose(NORMAL_QUANTILES, levels, atol=3e-7)  # the published float32 ones


def test_beats_integers_on_normal_weights_only():
    integers = F.INT4._replace(group=64)
    assert mse(F.NF4) < 0.9 * mse(integers)
    even = np.random.default_rng(1).uniform(-1, 1, W.shape).astype(np.float32)
    assert mse(F.NF4, even) > mse(integers, even)


def test_scales_in_eight_bits_cost_no_accuracy():
    leaf = F.quantize(W, F.NF4_DOUBLE)
    assert jc.tree.bits_per_weight(leaf) == 4 + 8 / 64 + 16 / 1024
    assert jc.tree.bits_per_weight(F.quantize(W, F.NF4)) == 4.25
    assert mse(F.NF4_DOUBLE) < 1.01 * mse(F.NF4)


def test_a_weight_on_the_grid_comes_back():
    for format in (F.NF4, F.NF4_DOUBLE):
        dense = check_leaf(F.quantize(W[:128, :4], format)).astype(np.float32)
        np.testing.assert_array_equal(F.quantize(dense, format).dense(), dense)
