"""What a file says of itself: shapes that can be, profiles that inflate to what they should."""

import os
import zlib

import pytest

import jaxcomp as jc
from jaxcomp.codecs import header
from jaxcomp.coding.container import Container


def stating(shape, codec="dct", **sections):
    return Container(1, codec, {"shape": shape}, sections)


def test_shapes_that_are_believed():
    for shape in ([512, 768, 3], [1, 1, 1], [9, 4], [header.MAX_PIXELS, 1, 3]):
        assert header.image_shape(stating(shape)) == tuple(shape)


@pytest.mark.parametrize(
    "shape",
    [
        *(None, "x", {}, [], [4], [4, 4, 2], [4, 4, 3, 1], [0, 4, 3], [-1, 4, 3]),
        *([4.0, 4, 3], [True, 4, 3], [[4], 4, 3], [4, 4, 3.0], [4, 4, True]),
    ],
)
def test_shapes_that_are_none(shape):
    with pytest.raises(jc.CorruptStream, match="image's shape.*got"):
        header.image_shape(stating(shape))


def test_sizes_and_codecs_beyond_this_reader():
    for shape in ([2**62, 2**62, 3], [2**31, 1, 3], [header.MAX_PIXELS + 1, 1, 1]):
        with pytest.raises(jc.UnsupportedInput, match="at most 134217728 pixels.*--max-pixels"):
            header.image_shape(stating(shape))
    assert header.image_shape(stating([4, 4]), max_pixels=16) == (4, 4)
    with pytest.raises(jc.UnsupportedInput, match="at most 15 pixels, got 4 x 4 = 16"):
        header.image_shape(stating([4, 4]), max_pixels=15)
    with pytest.raises(jc.UnsupportedInput, match="'jpeg9', this jaxcomp knows .*dct"):
        header.image_shape(stating([4, 4], codec="jpeg9"))


def test_profiles_are_inflated_within_bounds():
    profile = os.urandom(600)
    assert header.icc_profile(stating([4, 4])) is None
    assert header.icc_profile(stating([4, 4], icc=zlib.compress(profile))) == profile
    largest = bytes(header.ICC_LIMIT)
    assert header.icc_profile(stating([4, 4], icc=zlib.compress(largest))) == largest
    for lie in (
        b"",
        b"junk",
        zlib.compress(largest + b"!"),
        zlib.compress(bytes(1 << 27), 1),  # 128 MB out of 600 kB
        zlib.compress(profile)[:-1],
        zlib.compress(profile) + b"!",
    ):
        with pytest.raises(jc.CorruptStream, match="ICC profile"):
            header.icc_profile(stating([4, 4], icc=lie))
