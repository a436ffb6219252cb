"""Colour and grey in, the same shape out; other images and shapes refused by name."""

import numpy as np
import pytest

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.codecs.samples import from_colour, read_shape, to_colour


@pytest.mark.parametrize("shape", [(4, 5, 3), (4, 5, 1), (4, 5)])
def test_an_image_comes_back_in_its_shape(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    colour = to_colour(image, "any")
    assert colour.shape == (4, 5, 3)
    np.testing.assert_array_equal(from_colour(colour, shape), image)
    assert read_shape({"shape": list(shape)}) == shape


@pytest.mark.parametrize("shape, dtype", [((4, 5, 4), np.uint8), ((4, 5, 3), np.float32)])
def test_other_images_are_refused(shape, dtype):
    with pytest.raises(UnsupportedInput, match="expected"):
        to_colour(np.zeros(shape, dtype), "any")


@pytest.mark.parametrize("shape", [None, [4], [4, 5, 2], [0, 5], [4, 2**40], [4.0, 5], "45"])
def test_shapes_that_are_none_are_refused(shape):
    with pytest.raises(CorruptStream, match="expected a shape"):
        read_shape({"shape": shape})
