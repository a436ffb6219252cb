"""Magnitudes as symbols and raw bits: the round trip, and damage."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from jaxcomp.base import CorruptStream
from jaxcomp.codecs import dct_symbols as symbols

VALUES = st.lists(st.integers(-symbols.LARGEST, symbols.LARGEST), min_size=1, max_size=50)


@given(VALUES)
def test_values_come_back_in_the_bits_they_announce(values):
    values = np.array(values, np.int32)
    kind = symbols.symbols_of(np.abs(values))
    data = symbols.pack(values, kind)
    np.testing.assert_array_equal(symbols.unpack(data, kind), values)
    assert len(data) == -(-int((kind > 0).sum() + symbols.EXTRA[kind].sum()) // 8)


@given(VALUES)
def test_another_length_is_refused(values):
    values = np.array(values, np.int32)
    kind = symbols.symbols_of(np.abs(values))
    data = symbols.pack(values, kind)
    for wrong in (data + b"\0", data[1:]):
        if len(wrong) != len(data):
            with pytest.raises(CorruptStream, match="signs and places"):
                symbols.unpack(wrong, kind)


def test_the_buckets_tile_the_magnitudes():
    widths = np.diff(symbols.EDGES, append=symbols.LARGEST + 1)
    np.testing.assert_array_equal(widths, 1 << symbols.EXTRA)
