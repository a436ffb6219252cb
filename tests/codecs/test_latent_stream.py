"""Heads of tiles: every lie is named before anything is read. The rest: test_latent_coding."""

import pytest

from jaxcomp.base import CorruptStream
from jaxcomp.codecs.latent_stream import HEAD, TILE_HEAD, _split

DATA = HEAD.pack(640) + b"".join(TILE_HEAD.pack(1, 2, n) + b"f" + b"ss" + b"l" * n for n in (3, 4))


def test_tiles_come_apart():
    assert _split(DATA, 2) == (640, [[b"f", b"ss", b"lll"], [b"f", b"ss", b"llll"]])


def test_lies_are_named():
    for bad in (b"", DATA[:21], DATA[:-1], DATA + b"x", DATA[:18]):
        with pytest.raises(CorruptStream, match="tiles"):
            _split(bad, 2)
    huge = HEAD.pack(640) + TILE_HEAD.pack(1, 2**32 - 1, 2**32 - 1) + DATA[12:]
    with pytest.raises(CorruptStream, match="tiles"):
        _split(huge, 2)
