"""One tile as bytes: its fields, and what is refused before anything is decoded."""

import struct

import numpy as np
import pytest

from jaxcomp.base import CorruptStream
from jaxcomp.codecs import dct
from jaxcomp.codecs import dct_tile as tile
from jaxcomp.coding import build_tables, encode, to_bytes


def test_a_tile_is_split_where_its_fields_say():
    data = b"xx" + struct.pack("<3BI", 1, 2, 3, 4) + b"rans" + struct.pack("<I", 3) + b"rawrest"
    (counts, packed, raw), position = tile.split(data, 2)
    assert (counts, packed, raw) == ([1, 2, 3], b"rans", b"raw")
    assert data[position:] == b"rest"


def test_short_tiles_are_refused():
    whole = struct.pack("<3BI", 1, 2, 3, 4) + b"rans" + struct.pack("<I", 3) + b"raw"
    for cut in range(len(whole)):
        with pytest.raises(CorruptStream, match="expected"):
            tile.split(whole[:cut], 0)


def test_streams_of_another_kind_are_refused():
    model = dct().init()
    where = (0, 0, 32, 32)
    tables = build_tables(np.ones(3), escape=True)
    zeros, sevens = np.zeros(99, np.int32), np.full(99, 7, np.int32)
    wide = to_bytes(encode(tables, zeros, lanes=2 * tile.LANES, in_parts=True))
    escaping = to_bytes(encode(tables, sevens, lanes=tile.LANES, in_parts=True))
    whole = to_bytes(encode(tables, zeros, lanes=tile.LANES))
    lanes = f"1 group of {tile.LANES} lanes"
    refused = (wide, lanes), (escaping, "at most 0 escapes"), (whole, "popped in parts")
    for packed, expected in refused:
        with pytest.raises(CorruptStream, match=expected):
            tile.read_tile(model, where, 160, [0, 0, 0], packed, b"")
