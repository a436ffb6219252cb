"""Universal quantisation: golden dither, an error that is uniform whatever was quantised."""

import jax
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.entropy import (
    dither,
    dither_index,
    dither_value,
    universal_dequantise,
    universal_quantise,
)

KEY = (20, 7)
GOLDEN = [[-5931297, 766018], [484242, -3656014]]  # of key (1, 2), in units of 2**-24


def test_the_dither_of_a_key_never_changes():
    # A file holds the key alone: these values are part of the format.
    np.testing.assert_array_equal(np.asarray(dither((1, 2), (2, 2)) * 2**24).astype(int), GOLDEN)
    np.testing.assert_array_equal(dither_index((1, 2), (6,), 16), [2, 8, 8, 4, 9, 10])
    np.testing.assert_array_equal(jax.jit(lambda: dither((1, 2), (2, 2)))() * 2**24, GOLDEN)
    assert (dither((1, 3), (2, 2)) != dither((1, 2), (2, 2))).all()


@pytest.mark.parametrize("value", [0.0, 0.25, 0.5, -7.9])
def test_the_error_is_uniform_and_independent_of_the_value(value):
    y = np.full(50_000, value, np.float32)
    error = np.asarray(universal_dequantise(KEY, universal_quantise(KEY, y))) - y
    assert np.abs(error).max() <= 0.5 + 1e-6
    # Kolmogorov-Smirnov, at a level of 1 in 10,000. Plain rounding has one error, not many.
    gap = np.abs(np.sort(error) + 0.5 - np.arange(len(error)) / len(error)).max()
    assert gap < 2.2 / np.sqrt(len(error))
    # And neighbours have errors of their own.
    assert abs(np.corrcoef(error[1:], error[:-1])[0, 1]) < 4 / np.sqrt(len(error))


def test_the_error_does_not_follow_a_signal():
    y = np.sin(np.arange(100_000) / 17).astype(np.float32)
    error = np.asarray(universal_dequantise(KEY, universal_quantise(KEY, y))) - y
    assert abs(np.corrcoef(error, y)[0, 1]) < 4 / np.sqrt(len(y))
    assert abs(np.corrcoef(np.round(y) - y, y)[0, 1]) > 0.1  # plain rounding: it does


@pytest.mark.parametrize("levels", [1, 3, 16, 256])
def test_levels_are_uniform_and_centred(levels):
    index = np.asarray(dither_index(KEY, (100, 400), levels))
    count = np.bincount(index.reshape(-1), minlength=levels)
    assert len(count) == levels
    np.testing.assert_allclose(
        count / index.size, 1 / levels, atol=6 / np.sqrt(index.size * levels)
    )
    values = np.asarray(dither_value(np.arange(levels), levels))
    np.testing.assert_allclose(values, -values[::-1], atol=1e-7)
    np.testing.assert_allclose(np.diff(values), 1 / levels, rtol=1e-5)


def test_too_many_levels_are_refused():
    with pytest.raises(jc.JaxcompError, match="1 to 256 levels"):
        dither_index(KEY, (3,), 257)
