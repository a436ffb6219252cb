"""Images to .jxc files and back: a Codec and a container, joined.

header.py judges what a file says of itself; here codecs do the work. Nothing imports jax until a
codec is asked for.
"""

import functools
import importlib
import zlib
from typing import Any

import numpy as np

from jaxcomp.base import Codec, CorruptStream, Payload, UnsupportedInput
from jaxcomp.codecs.header import CODECS, ICC_LIMIT, ICC_SECTION, MAX_PIXELS, image_shape
from jaxcomp.coding.container import Container, pack, unpack


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
