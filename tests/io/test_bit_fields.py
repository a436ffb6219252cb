"""Codes in bytes and words: there and back, the same as the kernels pack, and words by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.io.bit_fields import (
    pack_leaf,
    pack_tiles,
    pack_words,
    unpack_leaf,
    unpack_tiles,
    unpack_words,
    words_for,
)
from jaxcomp.kernels import packing

rng = np.random.default_rng(0)


@pytest.mark.parametrize("bits,tile", [(1, 8), (1, 256), (2, 4), (2, 128), (4, 32), (8, 16)])
def test_tiles_there_and_back(bits, tile):
    codes = rng.integers(0, 1 << bits, (3, 512)).astype(np.uint8)
    packed = pack_tiles(codes, bits, tile)
    assert packed.shape == (3, 512 * bits // 8)
    np.testing.assert_array_equal(unpack_tiles(packed, bits, tile), codes)


def test_a_tile_of_nibbles_is_two_halves():
    codes = np.arange(16, dtype=np.uint8)[None]
    assert pack_tiles(codes, 4, 16)[0].tolist() == [i | (i + 8) << 4 for i in range(8)]


@pytest.mark.parametrize("bits,tile", [(packing.TRITS, 12), (3, 16), (6, 8), (4, 32)])
def test_leaves_are_packed_as_the_kernels_pack(bits, tile):
    codes = rng.integers(0, 1 << bits if bits else 3, (2, 2 * tile)).astype(np.uint8)
    packed = pack_leaf(codes, bits, tile)
    np.testing.assert_array_equal(packed, packing.pack(jnp.asarray(codes), bits, axis=1, tile=tile))
    np.testing.assert_array_equal(unpack_leaf(packed, bits, tile), codes)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [1, 31, 40, 64])
def test_words_there_and_back(bits, count):
    codes = rng.integers(0, 1 << bits, (3, count)).astype(np.uint8)
    words = pack_words(codes, bits)
    assert words.dtype == np.int32 and words.shape == (3, words_for(count, bits))
    np.testing.assert_array_equal(unpack_words(words, bits, count), codes)


@pytest.mark.parametrize("bits", [3, 4, 7])
def test_words_are_one_stream_of_bits_low_first(bits):
    codes = rng.integers(0, 1 << bits, 50).astype(np.uint8)
    number = sum(int(code) << bits * i for i, code in enumerate(codes))
    words = pack_words(codes[None], bits)[0].view(np.uint32)
    assert sum(int(word) << 32 * i for i, word in enumerate(words)) == number
