"""Planes of bytes come back exactly, by the way that is smallest."""

import numpy as np
import pytest

from jaxcomp.base import CorruptStream
from jaxcomp.coding.byte_plane import (
    CONSTANT,
    PAIRS,
    RAW,
    RUNS,
    SINGLES,
    carried,
    is_raw,
    length,
    read_plane,
    write_plane,
)

RNG = np.random.default_rng(0)


def through(plane, width=0):
    parts = write_plane(plane, width)
    data = b"".join(parts)
    assert len(data) == length(parts) <= plane.size + 1
    got, cargo = read_plane(memoryview(data), plane.size)
    assert (got == plane).all() and not cargo.size
    return data


def entropy(plane):
    share = np.bincount(plane) / plane.size
    share = share[share > 0]
    return -(share * np.log2(share)).sum()


def geometric(p, count=9001):
    return np.minimum(RNG.geometric(p, count) + 40, 250).astype(np.uint8)


@pytest.mark.parametrize(
    ("plane", "mode"),
    [
        (RNG.integers(0, 256, 9000, np.uint8), RAW),
        (np.full(9000, 7, np.uint8), CONSTANT),
        (geometric(0.5), PAIRS),
        (geometric(0.2), SINGLES),
        (RNG.integers(16, 32, 9001, np.uint8), PAIRS),  # 16 kinds, and no escape
        (np.append(geometric(0.5), np.uint8(0)), PAIRS),
    ],
    ids="raw constant pairs singles sixteen escape".split(),
)
def test_each_plane_takes_the_way_that_is_smallest(plane, mode):
    data = through(plane)
    assert data[0] == mode
    if mode in (SINGLES, PAIRS):
        assert len(data) * 8 < 1.01 * entropy(plane) * plane.size + 1200


def test_a_byte_outside_the_sample_is_an_escape():
    plane = geometric(0.5, 1 << 19)
    plane[129::5000] = RNG.integers(0, 256, plane[129::5000].size)
    through(plane)


def test_heads_carry_what_would_be_wasted():
    plane, cargo = geometric(0.5), RNG.integers(0, 256, 99, np.uint8)
    parts = write_plane(plane, cargo=cargo)
    got, taken = read_plane(memoryview(b"".join(parts)), plane.size)
    assert (got == plane).all() and carried(parts) == taken.size > 0
    assert (taken == cargo[: taken.size]).all() and length(parts) < length(write_plane(plane)) + 20


def test_noise_beside_what_is_none_is_stored():
    zeros = np.zeros(1 << 18, np.uint8)
    noise = RNG.integers(0, 256, 1 << 18, np.uint8)
    data = through(np.concatenate([zeros, noise, zeros[:9]]))
    assert data[0] == RUNS and len(data) < noise.size + 99
    for place, byte in ((1, 1), (2, 7), (9, 1), (data.index(bytes([CONSTANT, 0])), RUNS)):
        bad = bytearray(data)
        bad[place] = byte
        with pytest.raises(CorruptStream):
            read_plane(memoryview(bytes(bad)), 2 * zeros.size + 9)


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257])
def test_few_bytes(count):
    through(geometric(0.9, count))


def test_headers_that_no_writer_made_are_refused():
    data = through(geometric(0.5))
    for place, byte in ((0, 9), (1, 31), (2, 11), (3, 200), (4, 0), (4, 99), (5, 255), (10, 255)):
        bad = bytearray(data)
        bad[place] = byte
        with pytest.raises(CorruptStream):
            read_plane(memoryview(bytes(bad)), 9001)
    for bad in (b"", data[:9], data[:-1], data + b"0"):
        with pytest.raises(CorruptStream):
            read_plane(memoryview(bad), 9001)


def test_runs_that_do_not_pay_are_not_written():
    plane = RNG.integers(0, 256, 1 << 18).astype(np.uint8)
    plane[: 1 << 17 : 16] = RNG.integers(0, 200, 1 << 13)  # all that is looked at
    parts = write_plane(plane)
    assert is_raw(parts) and len(parts[1]) == plane.size
