"""Bits per pixel: every byte of the file, over pixels and not samples."""

import pytest

from jaxcomp.base import UnsupportedInput
from jaxcomp.measures import bpp


def test_counts_every_byte_over_pixels():
    assert bpp(49152, (512, 768, 3)) == 1.0
    assert bpp(bytes(49152), (512, 768)) == 1.0
    assert bpp(b"", (1, 1)) == 0.0


@pytest.mark.parametrize(
    ("data", "shape"), [(-1, (2, 2)), (1, (0, 2)), (1, (4,)), (1, (1, 2, 2, 3))]
)
def test_refuses_what_is_no_image(data, shape):
    with pytest.raises(UnsupportedInput, match="bpp takes"):
        bpp(data, shape)
