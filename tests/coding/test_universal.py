"""Universal codes: round trips, the published lengths, named errors."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import jaxcomp as jc
from jaxcomp.coding import universal

INTEGERS = st.lists(st.integers(0, 2**32 - 1), max_size=40)


@given(INTEGERS, st.integers(0, 31))
def test_exponential_golomb_round_trip_and_length(values, k):
    data = universal.exponential_golomb_encode(np.array(values, np.int64), k)
    back, used = universal.exponential_golomb_decode(data + b"tail", len(values), k)
    assert back.tolist() == values and used == len(data)
    lengths = [2 * ((v >> k) + 1).bit_length() - 1 + k for v in values]
    # Two sections, each padded to a byte.
    assert sum(lengths) <= 8 * len(data) < sum(lengths) + 16


@given(INTEGERS)
def test_elias_gamma_is_the_published_code(values):
    data = universal.elias_gamma_encode(np.array(values, np.int64) // 2 + 1)
    back, used = universal.elias_gamma_decode(data, len(values))
    assert back.tolist() == [v // 2 + 1 for v in values] and used == len(data)
    assert universal.elias_gamma_encode(np.array([1])) == b"\x80"
    # 9 = 1001b: three zeros and a one, then 001.
    assert universal.elias_gamma_encode(np.array([9])) == b"\x10\x20"


@given(st.lists(st.integers(0, 5000), max_size=40), st.integers(4, 20))
def test_golomb_rice_round_trip(values, k):
    data = universal.golomb_rice_encode(np.array(values, np.int64), k)
    back, used = universal.golomb_rice_decode(data, len(values), k)
    assert back.tolist() == values and used == len(data)


def test_the_best_parameter_is_the_shortest():
    values = np.random.default_rng(0).geometric(1 / 300, 500)
    sizes = [len(universal.exponential_golomb_encode(values, k)) for k in range(32)]
    assert sizes[universal.best_exponential_golomb(values)] == min(sizes) < sizes[0]


def test_bad_input_is_named():
    with pytest.raises(jc.JaxcompError, match=r"\[1, 2\*\*32\)"):
        universal.elias_gamma_encode(np.array([0]))
    with pytest.raises(jc.JaxcompError, match="raise k"):
        universal.golomb_rice_encode(np.full(4, 2**32 - 1), 0)
    for data, count in ((b"", 1), (b"\x00" * 9, 1), (b"\x01", 1), (b"\xff", 9)):
        with pytest.raises(jc.CorruptStream, match="expected"):
            universal.exponential_golomb_decode(data, count, 8)


def test_wide_fields_come_back_exactly_and_in_pieces():
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 61, 20_000)
    values = rng.integers(0, 1 << 62, 20_000).astype(np.uint64) & (
        (np.uint64(1) << lengths.astype(np.uint64)) - np.uint64(1)
    )
    data = universal.pack_bits(values, lengths)
    back, used = universal.unpack_bits(data, lengths)
    assert back.dtype == np.uint64 and used == len(data)
    np.testing.assert_array_equal(back, values)
