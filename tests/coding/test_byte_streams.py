"""Symbols of any number come back from heads and words, padded to few shapes."""

import chex
import jax
import numpy as np
import pytest

from jaxcomp.base import CorruptStream
from jaxcomp.coding import byte_streams
from jaxcomp.coding.byte_tables import frequencies, shares
from jaxcomp.kernels import rans_bytes

RNG = np.random.default_rng(0)
RANK = np.arange(256, dtype=np.uint8)
TABLE = frequencies(shares(np.ones((1, 256))), 12, False)
CARGO = np.zeros(16, np.uint16)
VALUES = np.arange(256, dtype=np.uint16)


def decode(head, words, count):
    return byte_streams.decode(head, words, None, TABLE, 12, VALUES, count, False)


def test_lengths_share_programs(monkeypatch):
    chex.clear_trace_counter()
    for name in ("encode", "decode"):
        kernel = getattr(rans_bytes, name).__wrapped__
        static = ("paired", "classed", *["steps"][: name == "decode"])
        limited = chex.assert_max_traces(kernel, n=1)
        monkeypatch.setattr(rans_bytes, name, jax.jit(limited, static_argnames=static))
    for count in (1, 70, 999, 4000):
        symbols = RNG.integers(0, 256, count, np.uint8)
        head, words, escapes = byte_streams.encode(symbols, None, CARGO, RANK, 7, TABLE, 12, False)
        assert len(head) == 16 and (decode(head, words, count)[0] == symbols).all()
        assert (escapes == np.flatnonzero(symbols == 7)).all()


def test_a_stream_is_used_to_its_end():
    symbols = RNG.integers(0, 256, 3000, np.uint8)
    head, words, _ = byte_streams.encode(symbols, None, CARGO, RANK, 7, TABLE, 12, False)
    for wrong in (words[:-1], np.append(words, words[:1])):
        with pytest.raises(CorruptStream, match="damaged"):
            decode(head, wrong, 3000)
    many = RNG.integers(0, 256, 70_000, np.uint8)
    assert byte_streams.lanes_for(70_000) == 256
    cargo = RNG.integers(0, 1 << 16, 256, np.uint16)
    head, words, _ = byte_streams.encode(many, None, cargo, RANK, 7, TABLE, 12, False)
    got, carried = decode(head, words, many.size)
    assert (got == many).all() and (carried == cargo).all()
