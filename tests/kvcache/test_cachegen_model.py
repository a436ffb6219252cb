"""Models of cachegen: tables that every machine makes alike, and bytes that are judged."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import logistic

import jaxcomp as jc
from jaxcomp.kvcache import cachegen_model
from jaxcomp.kvcache.cachegen_model import (
    EXPANSION,
    LIMITS,
    SCALES,
    Model,
    bin_sizes,
    deviations,
    masses,
    scales,
    tables_of,
)
from tests.checks import check_tables


def model(layers=2, channels=24, seed=0):
    rng = np.random.default_rng(seed)
    size = (2, layers, channels)
    return Model(*(rng.integers(low, high + 1, size, np.int32) for low, high in LIMITS))


def every_table(channels=SCALES):
    arrays = model(1, channels)
    return arrays._replace(scale=np.tile(np.arange(channels, dtype=np.int32), (2, 1, 1)))


def test_tables_are_logistic():
    mass = masses(deviations(), 200)
    edges = (np.arange(-200, 202) - 0.5) / deviations()[:, None] * np.pi / np.sqrt(3)
    np.testing.assert_allclose(mass[:, :-1], np.diff(logistic.cdf(edges)), atol=1e-12)
    np.testing.assert_allclose(mass.sum(1), 1, atol=1e-12)
    k = np.arange(-200, 201)
    middle = slice(10, 28)  # neither finer than a bin nor wider than 200
    variance = (mass[middle, :-1] * k**2).sum(1)
    np.testing.assert_allclose(variance, deviations()[middle] ** 2 + 1 / 12, rtol=0.01)


def test_the_table_is_that_of_the_deviation():
    wanted = np.arange(4, SCALES - 4, 4)
    noise = np.random.default_rng(0).logistic(size=(4000, 1)) * np.sqrt(3) / np.pi
    left = np.rint(noise * deviations()[wanted]).astype(np.int64)
    assert abs(scales(left) - wanted).max() <= 1
    assert scales(np.zeros((5, 1), int)) == 0
    assert scales(np.full((5, 1), 1 << 20)) == SCALES - 1


def test_golden_tables():
    """Integers that files depend on. If this fails, files of other machines cannot be read."""
    tables, index = tables_of(every_table().scale)
    check_tables(tables)
    np.testing.assert_array_equal(index[0, 0], np.arange(SCALES))
    narrow, _ = tables_of(every_table(20).scale)
    crcs = [zlib.crc32(np.asarray(t.entries).astype("<u4").tobytes()) for t in (tables, narrow)]
    assert crcs == [1275616374, 167886763]


def test_a_byte_holds_at_most_what_is_believed():
    for channels in (1, SCALES):
        tables, _ = tables_of(every_table(channels).scale)
        likeliest = int(np.asarray(tables.frequencies).max())
        assert 8 / (16 - np.log2(likeliest)) < EXPANSION


def test_bins_are_powers_of_two_and_roots_between():
    step = np.array([-401, -4, -1, 0, 1, 2, 3, 4, 6], np.int32)
    size = bin_sizes(step)
    assert size.dtype == np.float32
    np.testing.assert_allclose(size, 2.0 ** (step / 4), rtol=1e-7)
    assert size[1] == 0.5 and size[3] == 1 and size[7] == 2


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 99))
def test_bytes_come_back(layers, channels, seed):
    arrays = model(layers, channels, seed)
    back = cachegen_model.from_bytes(cachegen_model.to_bytes(arrays), layers, channels)
    for x, y in zip(arrays, back, strict=True):
        assert y.dtype == np.int32
        np.testing.assert_array_equal(x, y)


def test_false_bytes_are_refused():
    data = cachegen_model.to_bytes(model())
    for bad, words in (
        (data[:-9], "expected"),
        (data + b"\x00", "the end of the stream, got 1 more"),
        (b"\xff" + data[1:], "tables below 52"),
        (data[:8] + b"\xff" + data[9:], "k below 32"),
        (cachegen_model.to_bytes(model()._replace(weight=model().weight + 8)), "weight from 0 to"),
        (cachegen_model.to_bytes(model()._replace(scale=model().scale - 9)), "scale from 0 to"),
    ):
        with pytest.raises(jc.CorruptStream, match=words):
            cachegen_model.from_bytes(bad, 2, 24)
    with pytest.raises(jc.CorruptStream, match="a model of 2000000 layers"):
        cachegen_model.from_bytes(data, 2_000_000, 24_000)
