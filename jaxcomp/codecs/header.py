"""What a .jxc image file says of itself, judged before a codec, NumPy or jax is loaded.

The header carries the image's shape, a hash of the model that the codec ships, and what the codec
writes there. An ICC profile travels as one more section, deflated.
"""

import importlib.resources
import math
import zlib
from typing import NamedTuple

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.coding.container import Container, unpack


class Home(NamedTuple):
    """Where a codec lives: its module, the function that makes it, and the arrays it ships."""

    module: str
    function: str
    model: str | None  # an .npz or .jxw file in jaxcomp/codecs


# The codec names that a file may carry.
CODECS = {
    "dct": Home("jaxcomp.codecs.dct", "dct", "dct_tables.npz"),
    "learned": Home("jaxcomp.codecs.learned", "learned", "learned.jxw"),
}
# Codecs that learn: `jaxcomp train` makes their weights, and their files need these to be read.
TRAINABLE = ("channel_conditional", "checkerboard", "factorized", "hyperprior", "mean_scale")
CODECS |= {name: Home(f"jaxcomp.codecs.{name}", name, None) for name in TRAINABLE}
# 2**27 = 134 million pixels: every camera up to the 102-megapixel medium formats. At a dozen bytes
# per pixel that the dct codec takes it is 1.6 GB; a hostile size beyond it is never allocated.
MAX_PIXELS = 1 << 27
ICC_SECTION = "icc"
ICC_LIMIT = 1 << 22  # bytes; display profiles take kilobytes, printer profiles up to two megabytes


def image_shape(container: Container, *, max_pixels: int = MAX_PIXELS) -> tuple[int, ...]:
    """The shape that the file says its image has, once it can be believed.

    Raises UnsupportedInput for an unknown codec or more than max_pixels, CorruptStream for a shape
    that is none.
    """
    if container.codec not in CODECS:
        raise UnsupportedInput(
            f"the file was written by codec {container.codec!r}, this jaxcomp knows "
            f"{', '.join(sorted(CODECS))}; install the version that wrote it"
        )
    shape = container.header.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) not in (2, 3)
        or any(type(size) is not int or size < 1 for size in shape)
        or (len(shape) == 3 and shape[2] not in (1, 3))
    ):
        raise CorruptStream(
            "expected a header with the image's shape, [height, width] or [height, width, 1 or 3], "
            f"got {ascii(shape)[:80]}; fetch or write the file again"
        )
    pixels = math.prod(shape[:2])
    if pixels > max_pixels:
        raise UnsupportedInput(
            f"expected an image of at most {max_pixels} pixels, got {shape[1]} x {shape[0]} = "
            f"{pixels}; raise max_pixels (--max-pixels) if you trust the file"
        )
    return tuple(shape)


def decoder_macs(container: Container) -> int | None:
    """Multiply-accumulates per pixel of the networks that decode the file, by shipped weights.

    None for a codec without networks of layers, or whose weights this package does not ship.
    """
    model = CODECS[container.codec].model
    if model is None or not model.endswith(".jxw"):
        return None
    path = importlib.resources.files("jaxcomp.codecs").joinpath(model)
    return unpack(path.read_bytes()).header["macs_per_pixel"]


def icc_profile(container: Container) -> bytes | None:
    """The ICC profile that the file carries, or None."""
    section = container.sections.get(ICC_SECTION)
    if section is None:
        return None
    inflate = zlib.decompressobj()
    try:
        profile = inflate.decompress(section, ICC_LIMIT + 1)
    except zlib.error as error:
        raise CorruptStream(
            f"the ICC profile does not inflate: {error}; fetch or write the file again"
        ) from None
    if not inflate.eof or inflate.unused_data or len(profile) > ICC_LIMIT:
        raise CorruptStream(
            f"expected one deflated ICC profile of at most {ICC_LIMIT} bytes, got something else; "
            "fetch or write the file again"
        )
    return profile
