"""Bytes that repeat: exact, bounded in memory, and smaller than what tables of frequencies make."""

import numpy as np
import pytest

from jaxcomp.base import CorruptStream
from jaxcomp.coding.lempel_ziv import pack, unpack
from jaxcomp.coding.tensor_chunk import encode_chunk


def test_rows_like_the_row_before_are_small():
    x = np.tile(np.random.default_rng(0).integers(0, 40, 300, np.uint8), 30)
    data = pack(x)
    np.testing.assert_array_equal(unpack(data, x.size), x)
    assert len(data) < len(encode_chunk(x)) / 10
    np.testing.assert_array_equal(unpack(memoryview(pack(x[:0])), 0), x[:0])


def test_damage_is_named_and_nothing_grows_beyond_the_count():
    data = pack(np.zeros(1 << 20, np.uint8))
    assert len(data) < 500
    for bad, count in ((data, 1000), (data, 1 << 21), (data[:-9], 1 << 20), (b"nothing", 9)):
        with pytest.raises(CorruptStream, match="LZMA"):
            unpack(bad, count)
