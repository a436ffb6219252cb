"""Images to .jxc files and back: a Codec and a container, joined.

header.py judges what a file says of itself; here codecs do the work. Nothing imports jax until a
codec is asked for.
"""

import functools
import importlib
import importlib.resources
import zlib
from typing import Any

import numpy as np

from jaxcomp.base import Codec, CorruptStream, Payload, UnsupportedInput
from jaxcomp.codecs.header import (
    CODECS,
    ICC_LIMIT,
    ICC_SECTION,
    MAX_PIXELS,
    TRAINABLE,
    image_shape,
)
from jaxcomp.coding.container import Container, pack, unpack


def save(
    codec: Codec,
    image: np.ndarray,
    *,
    params: Any = None,
    icc: bytes | None = None,
    **options: Any,
) -> bytes:
    """The .jxc file of an image, u8[h, w, channels] or u8[h, w].

    params: of load_weights or of training, for a codec that ships none. icc: the image's ICC
    profile, kept as it is. options go to codec.encode (quality=50, bpp=0.5).
    Raises UnsupportedInput for an image that the codec does not carry.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise UnsupportedInput(
            "expected an image of 8-bit samples, uint8[h, w, channels] with at least one pixel, "
            f"got {image.dtype}{list(image.shape)}; convert it, for floats in 0..1 with "
            "(255 * image).round().astype('uint8')"
        )
    given, params = params, _parameters(codec, params)
    header, sections = codec.encode(params, image, **options)
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
    header = {**header, "shape": list(image.shape)}
    if (model := model_hash(codec.name, None if given is None else params)) is not None:
        header["model"] = model
    return pack(codec.name, header, sections)


def load(
    data: bytes, *, weights: tuple[Codec, Any] | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """The image in a .jxc file, u8 of the shape that was saved.

    weights: of load_weights, for a file of a codec that ships none, or shipped others. Raises
    CorruptStream for bytes that save did not write, and UnsupportedInput for more than max_pixels,
    a codec that this version does not know, or other weights than the file was written with.
    """
    return decode(unpack(data), weights=weights, max_pixels=max_pixels)


def decode(
    container: Container,
    *,
    weights: tuple[Codec, Any] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """load, for a container that has been unpacked."""
    shape = image_shape(container, max_pixels=max_pixels)
    codec, params = (find(container.codec), None) if weights is None else weights
    # Weights that are shipped have a codec of their own, whichever codec they were trained for.
    known = TRAINABLE if container.codec not in TRAINABLE else (container.codec,)
    if weights is not None and codec.name not in known:
        raise UnsupportedInput(
            f"expected weights of codec {container.codec}, which wrote the file, got {codec.name}"
        )
    params = _parameters(codec, params)
    check_model(container, None if weights is None else params)
    sections = {k: v for k, v in container.sections.items() if k != ICC_SECTION}
    image = np.asarray(codec.decode(params, Payload(dict(container.header), sections)))
    if image.shape != shape or image.dtype != np.uint8:
        raise CorruptStream(
            f"expected an image uint8{list(shape)} as the header says, got "
            f"{image.dtype}{list(image.shape)}; fetch or write the file again"
        )
    return image


def check_model(container: Container, params: Any = None) -> None:
    """Raise UnsupportedInput for a file that was written with another model.

    params: of the weights that are at hand; None for the model that this version ships.
    """
    model = model_hash(container.codec, params)
    if container.header.get("model") != model:
        have = "this jaxcomp ships" if params is None else "these weights are"
        raise UnsupportedInput(
            f"the file was written with model {ascii(container.header.get('model'))[:40]} of codec "
            f"{container.codec}, {have} {model}; install the version that wrote it, or pass the "
            "weights that did"
        )


@functools.cache
def find(name: str) -> Codec:
    """The codec of that name."""
    if name not in CODECS:
        raise UnsupportedInput(
            f"expected a codec among {', '.join(sorted(CODECS))}, got {name!r}; "
            "see jaxcomp compress --help"
        )
    return getattr(importlib.import_module(CODECS[name].module), CODECS[name].function)()


def model_hash(name: str, params: Any = None) -> str | None:
    """CRC32 of the arrays that decode, as eight hexadecimal digits; None if there are none.

    A file decodes with the model it was written with and no other, so it says which one that was.
    The hash is of what is stored, not of what a version derives from it.
    """
    if params is not None and name in (*TRAINABLE, "learned"):
        from jaxcomp.codecs.weights import weights_hash

        return weights_hash(params)
    return _shipped_hash(name)


@functools.cache
def _shipped_hash(name):
    if name not in CODECS or CODECS[name].model is None:
        return None
    path = importlib.resources.files("jaxcomp.codecs").joinpath(CODECS[name].model)
    if path.name.endswith(".jxw"):
        return unpack(path.read_bytes()).header["decoder"]
    crc = 0
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        for key in sorted(stored.files):
            array = stored[key].astype(stored[key].dtype.newbyteorder("<"))
            crc = zlib.crc32(f"{key} {array.dtype.str} {array.shape} ".encode(), crc)
            crc = zlib.crc32(np.ascontiguousarray(array), crc)
    return f"{crc:08x}"


def _parameters(codec, params):
    """Those given, else what the codec ships."""
    if params is None and codec.name in TRAINABLE:
        raise UnsupportedInput(
            f"codec {codec.name} ships no weights; train some (jaxcomp train image --codec "
            f"{codec.name}) and pass what load_weights reads"
        )
    if codec.name in TRAINABLE:
        from jaxcomp.codecs.weights import frozen

        return frozen(codec, params)
    return _shipped(codec.init) if params is None else params


@functools.lru_cache(maxsize=8)
def _shipped(init):
    """A codec's shipped parameters, read once per process."""
    return init()
