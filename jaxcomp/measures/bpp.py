"""Bits per pixel of a compressed image: every byte of the file counts, headers included."""

import math
from collections.abc import Sequence

from jaxcomp.base import UnsupportedInput


def bpp(data: bytes | int, shape: Sequence[int]) -> float:
    """8 * bytes / (height * width).

    data: the file itself, or its size in bytes. shape: (height, width) or (height, width, channels)
    of the image; channels do not count.
    """
    size = data if isinstance(data, int) else len(data)
    if len(shape) not in (2, 3) or min(shape) < 1 or size < 0:
        raise UnsupportedInput(
            "bpp takes a file or its size in bytes and the image shape (height, width) or (height, "
            f"width, channels), got {size} bytes and shape {tuple(shape)}"
        )
    return 8 * size / math.prod(shape[:2])
