"""Images to .jxc files and back: a Codec and a container, joined.

The container's header carries the image's shape, and what the codec writes there; "tables" names
the coding tables the file was written with. An ICC profile travels as one more section, deflated.
Nothing here imports jax until a codec is asked to work, so `image_shape` judges a stranger's file
for almost nothing.
"""

import functools
import importlib
import math
import zlib
from typing import Any

import numpy as np

from jaxcomp.base import Codec, CorruptStream, Payload, UnsupportedInput
from jaxcomp.coding.container import Container, pack, unpack

# The codec names a file may carry: the module and the function that makes the codec.
CODECS = {"dct": ("jaxcomp.codecs.dct", "dct")}
# 2**27 = 134 million pixels: every single-shot camera up to the 102-megapixel medium formats, and
# 400 MB of decoded RGB. A damaged or hostile size beyond it is refused before allocation.
MAX_PIXELS = 1 << 27
ICC_SECTION = "icc"
ICC_LIMIT = 1 << 22  # bytes; display profiles take kilobytes, printer profiles up to two megabytes


def save(codec: Codec, image: np.ndarray, *, icc: bytes | None = None, **options: Any) -> bytes:
    """The .jxc file of an image, u8[h, w, channels] or u8[h, w].

    icc: the image's ICC profile, kept as it is. options go to codec.encode (quality=50, bpp=0.5).
    Raises UnsupportedInput for an image that the codec does not carry.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise UnsupportedInput(
            "expected an image of 8-bit samples, uint8[h, w, channels] with at least one pixel, "
            f"got {image.dtype}{list(image.shape)}; convert it, for floats in 0..1 with "
            "(255 * image).round().astype('uint8')"
        )
    header, sections = codec.encode(_parameters(codec.init), image, **options)
    sections = dict(sections)
    if ICC_SECTION in sections:
        raise UnsupportedInput(f"codec {codec.name} wrote a section {ICC_SECTION!r}, a taken name")
    if icc:
        if len(icc) > ICC_LIMIT:
            raise UnsupportedInput(
                f"expected an ICC profile of at most {ICC_LIMIT} bytes, got {len(icc)}; drop it, "
                "or convert the photo to a standard colour space such as sRGB"
            )
        sections[ICC_SECTION] = zlib.compress(icc, 9)
    return pack(codec.name, {**header, "shape": list(image.shape)}, sections)


def load(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The image in a .jxc file, u8 of the shape that was saved.

    Raises CorruptStream for bytes that save did not write, and UnsupportedInput for more than
    max_pixels or a codec that this version does not know.
    """
    return decode(unpack(data), max_pixels=max_pixels)


def decode(container: Container, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """load, for a container that has been unpacked."""
    shape = image_shape(container, max_pixels=max_pixels)
    codec = find(container.codec)
    sections = {k: v for k, v in container.sections.items() if k != ICC_SECTION}
    image = np.asarray(
        codec.decode(_parameters(codec.init), Payload(dict(container.header), sections))
    )
    if image.shape != shape or image.dtype != np.uint8:
        raise CorruptStream(
            f"expected an image uint8{list(shape)} as the header says, got "
            f"{image.dtype}{list(image.shape)}; fetch or write the file again"
        )
    return image


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


@functools.cache
def find(name: str) -> Codec:
    """The codec of that name."""
    if name not in CODECS:
        raise UnsupportedInput(
            f"expected a codec among {', '.join(sorted(CODECS))}, got {name!r}; "
            "see jaxcomp compress --help"
        )
    module, function = CODECS[name]
    return getattr(importlib.import_module(module), function)()


@functools.lru_cache(maxsize=8)
def _parameters(init: Any) -> Any:
    """A codec's shipped parameters, read once per process."""
    return init()
