"""Entropy against closed forms and SciPy."""

import numpy as np
from scipy.stats import entropy

from jaxcomp.measures import entropy_bits
from tests.checks import check_measure


def test_closed_forms():
    np.testing.assert_allclose(entropy_bits(np.ones(256)), 8.0, atol=1e-5)
    np.testing.assert_allclose(entropy_bits(np.array([0.5, 0.25, 0.25])), 1.5, atol=1e-6)
    assert entropy_bits(np.array([0, 7, 0])) == 0.0


def test_rows_of_counts_equal_scipy_and_scale_does_not_matter():
    counts = np.random.default_rng(2).integers(0, 10_000, (5, 3, 300))
    np.testing.assert_allclose(entropy_bits(counts), entropy(counts, base=2, axis=-1), rtol=1e-5)
    pmf = counts / counts.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(entropy_bits(counts), entropy_bits(pmf), rtol=1e-5)


def test_is_the_length_of_the_best_code_a_histogram_allows():
    symbols = np.random.default_rng(3).geometric(0.3, 4000)
    counts = np.bincount(symbols)
    ideal_bits = -np.log2(counts[symbols] / symbols.size).mean()
    np.testing.assert_allclose(entropy_bits(counts), ideal_bits, rtol=1e-5)


def test_what_is_no_distribution_has_no_entropy():
    assert np.isnan(entropy_bits(np.zeros(2)))
    assert np.isnan(entropy_bits(np.array([2.0, -1.0])))


def test_measures_under_jit():
    assert check_measure(entropy_bits, np.float32([3, 1])) == entropy_bits(np.array([1, 3]))
