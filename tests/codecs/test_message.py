"""A message takes the room that its reader has, or is refused."""

import numpy as np
import pytest

from jaxcomp.base import CorruptStream
from jaxcomp.codecs.message import read_message
from jaxcomp.coding import build_tables, decode, encode, to_bytes


def test_a_message_has_the_shapes_of_its_reader_and_no_others():
    tables = build_tables(np.ones(4), escape=True)
    symbols = np.arange(100) % 5
    data = to_bytes(encode(tables, symbols, lanes=4, in_parts=True))
    for words, escapes in ((40, 60), (400, 600)):
        stream = read_message(data, lanes=4, words=words, escapes=escapes)
        assert stream.words.shape == (1, words) and stream.escapes.shape == (escapes,)
        np.testing.assert_array_equal(decode(tables, stream, shape=(100,)), symbols)
    for wrong in ({"lanes": 8}, {"words": 3}, {"escapes": 9}):
        with pytest.raises(CorruptStream, match="expected"):
            read_message(data, **{"lanes": 4, "words": 400, "escapes": 600} | wrong)
