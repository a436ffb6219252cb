"""Photos in and out of common files, by Pillow, without changing a sample unasked.

    taken as they are      8-bit RGB and grey: PNG, JPEG, WebP, TIFF, BMP, PPM, AVIF, JPEG 2000
    converted              palette and 1-bit (exactly); YCbCr; 16-bit PNG, TIFF to 8 (with a note)
    an alpha channel       dropped where it is opaque everywhere, blended where a background is
                           given, refused otherwise
    refused by name        CMYK, LAB, 32-bit and floating-point samples, animations and page sets

The EXIF orientation is applied, the ICC profile kept; other metadata is not read. Pillow raises
whatever its plugins raise: here that becomes CorruptStream or UnsupportedInput, never a third kind.
"""

import io
import os
import warnings
from io import BufferedIOBase
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from jaxcomp.base import CorruptStream, JaxcompError, UnsupportedInput

READ_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000")
# Output formats keep every sample: what the file says is what was decoded.
WRITE_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 4},  # 1.5 % larger than the default 6, in half the time
    "WEBP": {"lossless": True},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "BMP": {},
    "PPM": {},
}
WITH_PROFILE = ("PNG", "WEBP", "TIFF")  # what of these can carry an ICC profile
SUFFIXES = {
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".ppm": "PPM",
    ".pgm": "PPM",
}
_REFUSED = {
    "CMYK": "CMYK colours",
    "LAB": "LAB colours",
    "HSV": "HSV colours",
    "I": "32-bit integer samples",
    "F": "floating-point samples",
}


class Photo(NamedTuple):
    """An image and what belongs to it."""

    pixels: np.ndarray  # u8[h, w, 3], or u8[h, w, 1] for grey
    icc: bytes | None
    notes: tuple[str, ...]  # what was changed on the way in, for a person to read


def read_photo(
    source: str | os.PathLike[str] | bytes,
    *,
    max_pixels: int,
    background: str | None = None,
) -> Photo:
    """The photo in a file, or in the bytes of one, upright.

    background: a colour (any name Pillow knows, or #rrggbb) to blend a transparent photo with.
    Raises UnsupportedInput for what this file's table refuses, CorruptStream for a damaged photo,
    OSError where the file cannot be opened.
    """
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), max_pixels, background)
    with open(source, "rb") as file:
        return _read(file, max_pixels, background)


def check_suffix(suffix: str) -> str:
    """Pillow's name of the lossless format that a file suffix stands for."""
    kind = SUFFIXES.get(suffix.lower())
    if kind is None:
        raise UnsupportedInput(
            f"expected an output among {', '.join(sorted(SUFFIXES))} (lossless formats), got "
            f"{suffix!r}; decompress to .png and convert that"
        )
    return kind


def image_bytes(pixels: np.ndarray, suffix: str, *, icc: bytes | None = None) -> bytes:
    """A lossless image file of pixels u8[h, w, 1 or 3] or u8[h, w], in the format of a suffix.

    The ICC profile is left out where the format has no place for it (see WITH_PROFILE).
    """
    kind = check_suffix(suffix)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if kind == "WEBP" and max(pixels.shape[:2]) > 16383:
        raise UnsupportedInput(
            f"WebP holds at most 16383 pixels a side, got {pixels.shape[1]} x {pixels.shape[0]}; "
            "decompress to .png"
        )
    options = dict(WRITE_OPTIONS[kind])
    if icc and kind in WITH_PROFILE:
        options["icc_profile"] = icc
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def _read(file: BufferedIOBase, max_pixels: int, background: str | None) -> Photo:
    colour = None
    if background is not None:
        try:
            colour = ImageColor.getcolor(background, "RGB")
        except ValueError:
            raise UnsupportedInput(
                f"expected a colour such as white or #ff8800, got {background!r}"
            ) from None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            image = _open(file, max_pixels)
            photo = _convert(image, colour)
        except JaxcompError:
            raise
        except MemoryError:
            raise UnsupportedInput(
                "the photo does not fit into memory; scale it down or use --max-pixels"
            ) from None
        except Exception as error:  # Pillow's plugins raise a dozen types for damaged files
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CorruptStream(
                f"the photo is damaged or not a photo: {text}; open and save it again in another "
                "program, or fetch it again"
            ) from None
    damaged = tuple(
        f"while reading: {str(w.message).splitlines()[0]}"
        for w in caught
        if not issubclass(w.category, (DeprecationWarning, Image.DecompressionBombWarning))
    )
    return photo._replace(notes=photo.notes + damaged)


def _open(file: BufferedIOBase, max_pixels: int) -> Image.Image:
    """The photo's header, judged before its samples are decoded."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # ours follows, with the caller's number
    try:
        image = Image.open(file, formats=READ_FORMATS)
    except UnidentifiedImageError:
        raise UnsupportedInput(
            f"expected a photo ({', '.join(READ_FORMATS)}), got something else or a file that "
            "stops in its first bytes; convert it to PNG"
        ) from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    width, height = image.size
    if width * height > max_pixels:
        raise UnsupportedInput(
            f"expected a photo of at most {max_pixels} pixels, got {width} x {height} = "
            f"{width * height}; scale it down, or raise --max-pixels"
        )
    if width * height == 0:
        raise UnsupportedInput(f"expected at least one pixel, got {width} x {height}")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO: a camera's JPEG with previews behind it
        raise UnsupportedInput(
            f"expected one photo, got {frames} frames or pages; save the one you want on its own"
        )
    if image.mode in _REFUSED:
        raise UnsupportedInput(
            f"expected 8-bit RGB or grey, got {_REFUSED[image.mode]} (mode {image.mode}); convert "
            "the photo to sRGB with 8 bits per sample first"
        )
    return image


def _convert(image: Image.Image, background: Any) -> Photo:
    notes = []
    icc = image.info.get("icc_profile") or None
    # PNG and TIFF readers reduce 16-bit RGB to 8 while decoding; only the tile tells.
    raw = [tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in image.tile if tile[3]]
    sixteen = image.mode.startswith("I;16") or any(";16" in str(mode) for mode in raw)
    image.load()
    if sixteen:
        notes.append("16-bit samples reduced to 8 bits")
        if image.mode.startswith("I"):
            image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.getexif().get(0x0112, 1) != 1:  # Orientation
        image = ImageOps.exif_transpose(image)
    grey = image.mode in ("1", "L", "LA", "La")
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        if image.mode == "La":
            image = image.convert("LA")  # Pillow knows no shorter way from premultiplied grey
        image = _without_alpha(image.convert("RGBA"), background, notes)
        grey = grey and (background is None or len(set(background)) == 1)
    image = image.convert("L" if grey else "RGB")
    pixels = np.array(image)
    pixels = pixels[..., None] if grey else pixels
    space = b"GRAY" if grey else b"RGB "
    if icc and icc[16:20] != space:
        notes.append(
            f"ICC profile dropped: it describes {ascii(icc[16:20].decode('latin-1').strip())}, "
            f"the samples are {space.decode().strip()}"
        )
        icc = None
    return Photo(pixels, icc, tuple(notes))


def _without_alpha(image: Image.Image, background: Any, notes: list[str]) -> Image.Image:
    if image.getchannel("A").getextrema() == (255, 255):
        notes.append("an alpha channel without transparency was dropped")
    elif background is not None:
        canvas = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(canvas, image)
        notes.append("transparency blended with the background")
    else:
        raise UnsupportedInput(
            "expected an opaque photo, got one with transparent pixels (an alpha channel); "
            "blend it with --background white, or save it without transparency"
        )
    return image.convert("RGB")
