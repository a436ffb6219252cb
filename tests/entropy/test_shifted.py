"""Moved bins: the law with an offset and under a dither, and what each of them gains."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.entropy import (
    channelwise,
    dither_index,
    dither_value,
    gaussian,
    gaussian_log_mass,
    laplace,
    quantisation_offset,
    scale_table,
    scaled,
    shifted,
    universal,
)
from tests.checks import check_entropy_model

MEANS, SCALES = jnp.array([0.5, -2.4, 8.3]), jnp.array([0.2, 0.7, 4.0])
LOG_MASS = scaled(gaussian_log_mass)


def channels():
    return channelwise(lambda key=None: {}, lambda p, a, b: LOG_MASS(a, b, SCALES, MEANS), 3)


@pytest.mark.usefixtures("quick")
def test_an_offset_at_the_median_keeps_the_law_and_saves_bits():
    y = np.random.default_rng(0).normal(MEANS, SCALES, (20_000, 3)).astype(np.float32)
    offset = quantisation_offset(lambda a, b: LOG_MASS(a, b, SCALES, MEANS), 3)
    model = shifted(channels(), offset)
    symbols = np.rint(y - offset).astype(np.int32)
    check_entropy_model(model, {}, symbols)
    saved = channels().bits({}, np.rint(y)).mean(0) - model.bits(
        {}, symbols.astype(np.float32)
    ).mean(0)
    # Scale 0.2 half-way between integers cost a bit; scale 4 does not care.
    assert saved[0] > 0.8 and abs(saved[2]) < 0.02


def test_an_offset_of_a_conditional_model_is_that_of_its_row():
    offset = np.linspace(-0.5, 0.5, 64).astype(np.float32)
    model = shifted(laplace(), offset, jnp.arange(64))
    row, y = np.array([3, 40, 63], np.int32), np.array([0.0, 2.0, -5.0], np.float32)
    np.testing.assert_array_equal(model.bits({}, y, row), laplace().bits({}, y + offset[row], row))
    np.testing.assert_array_equal(model.index({}, (3,), row), row)
    frequencies = np.asarray(model.tables({}).frequencies)[:, :-1]
    # The mode is at 1/2 in row 0, and narrow: 0 and 1 share it. In the last row it is at -1/2.
    peak = frequencies[[0, 63]].argsort(axis=1)[:, -2:] + np.asarray(model.tables({}).offset)[0]
    assert sorted(peak[0]) == [0, 1] and sorted(peak[1]) == [-1, 0]


def test_no_offset_is_the_model_itself():
    model = channels()
    same = shifted(model, np.zeros(3)).tables({})
    np.testing.assert_allclose(
        np.asarray(same.entries >> 16).astype(int),
        np.asarray(model.tables({}).entries >> 16).astype(int),
        atol=2,
    )
    np.testing.assert_array_equal(same.offset, model.tables({}).offset)


@pytest.mark.usefixtures("quick")
def test_universal_quantisation_costs_what_the_noisy_density_says():
    levels, shape = 8, (300, 200)
    rng = np.random.default_rng(2)
    scales = scale_table(0.3, 4.0, 6)
    model = universal(gaussian(scales=scales), jnp.arange(6), levels=levels)
    which = np.asarray(dither_index((3, 4), shape, levels))
    row = rng.integers(0, 6, shape).astype(np.int32)
    u = np.asarray(dither_value(which, levels))
    y = rng.normal(0, scales[row])
    symbols = np.rint(y - u).astype(np.int32)
    check_entropy_model(model, {}, symbols, which, row)
    bits = np.asarray(model.bits({}, symbols.astype(np.float32), which, row))
    # The same as bits of y plus independent noise, which is what training saw.
    noisy = y + rng.uniform(-0.5, 0.5, shape)
    trained = np.asarray(gaussian(scales=scales).bits({}, noisy.astype(np.float32), row))
    np.testing.assert_allclose(bits.mean(), trained.mean(), rtol=0.01)


def test_universal_quantisation_of_channels_has_a_row_for_every_level():
    model = universal(channels(), levels=4)
    frequencies = np.asarray(model.tables({}).frequencies) / 65536
    assert len(frequencies) == 12
    which = np.array([[0, 3, 1]], np.int32)
    row = np.asarray(model.index({}, (1, 3), which))
    np.testing.assert_array_equal(row, [[0, 7, 9]])
    y = np.array([[1.0, -2.0, 9.0]], np.float32)
    column = y.astype(int) - np.asarray(model.tables({}).offset)[row]
    np.testing.assert_allclose(
        frequencies[row, column], np.exp2(-np.asarray(model.bits({}, y, which))), atol=2e-3
    )
