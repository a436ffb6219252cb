"""Random crops of the photos in a folder: what image codecs are trained on.

A crop depends on the seed, the number of its batch and its place there alone: training resumes
where it stopped, and hosts that share a batch make its parts. A photo is turned, mirrored and
scaled down by a random factor before it is cropped: most photos have been compressed before, and
scaling leaves no 8 x 8 grid to be learned.
"""

import math
import os
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxcomp.base import JaxcompError, UnsupportedInput
from jaxcomp.io.photo import read_photo

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm"}
SCALES = (0.6, 0.9)  # 1 would keep the grid of an earlier compression
RESAMPLING = (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BOX)
SUPPORT = 3  # of the widest filter, Lanczos, in pixels of the smaller image
MAX_PIXELS = 1 << 26
LEAST_SIDE = 16
CACHE_BYTES = 1 << 30  # of decoded photos; the least recently used go first


class PhotoFolder:
    """The photos below a folder, decoded when first asked for.

    A photo that cannot be read is left out from then on and reported as a warning. Raises
    JaxcompError for a folder without photos.
    """

    def __init__(self, folder: str | os.PathLike[str], *, cache_bytes: int = CACHE_BYTES):
        self.paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)
        self.unreadable: set[Path] = set()
        self._cache: OrderedDict[Path, np.ndarray] = OrderedDict()
        self._room = cache_bytes
        if not self.paths:
            raise JaxcompError(
                f"expected photos ({', '.join(sorted(SUFFIXES))}) below {folder}, found none"
            )

    def read(self, path: Path) -> UInt8[np.ndarray, "h w 3"] | None:
        """The pixels of a photo; None if it cannot be read."""
        if path in self.unreadable:
            return None
        if path in self._cache:
            self._cache.move_to_end(path)
            return self._cache[path]
        try:
            pixels = read_photo(path, max_pixels=MAX_PIXELS, background="white").pixels
            if min(pixels.shape[:2]) < LEAST_SIDE:
                raise UnsupportedInput(
                    f"expected at least {LEAST_SIDE} pixels a side, got {pixels.shape[:2]}"
                )
        except (JaxcompError, OSError) as error:
            self.unreadable.add(path)
            if len(self.unreadable) == len(self.paths):
                raise JaxcompError(f"expected photos, but none can be read: {error}") from error
            warnings.warn(f"{path.name} is left out: {error}", stacklevel=2)
            return None
        pixels = np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
        self._cache[path] = pixels
        self._room -= pixels.nbytes
        while self._room < 0 and len(self._cache) > 1:
            self._room += self._cache.popitem(last=False)[1].nbytes
        return pixels

    def batch(
        self, size: int, count: int, *, seed: int, step: int, part: slice = slice(None)
    ) -> UInt8[np.ndarray, "b s s 3"]:
        """`count` crops of size x size: batch number `step` of the endless sequence of `seed`.

        part: which of them to make. A crop depends on seed, step and its place in the batch alone.
        """
        keys = ([seed, step, place] for place in range(count)[part])
        return np.stack([self._crop(size, np.random.default_rng(key)) for key in keys])

    def _crop(self, size, rng):
        while True:
            pixels = self.read(self.paths[rng.integers(len(self.paths))])
            if pixels is not None:
                return crop(pixels, size, rng)


def crop(
    pixels: UInt8[np.ndarray, "h w 3"], size: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "s s 3"]:
    """A random crop at a random scale and orientation; photos too small for it are enlarged.

    It is a crop of the scaled photo, of which no more is computed than what is kept.
    """
    height, width = pixels.shape[:2]
    low = (size + 1) / (min(height, width) - 4)
    scale = rng.uniform(max(SCALES[0], low), max(SCALES[1], low))
    left, top = rng.uniform(0, 4, 2)
    shape = max(size, int((width - 4) * scale)), max(size, int((height - 4) * scale))
    method = RESAMPLING[rng.integers(len(RESAMPLING))]
    y, x = (rng.integers(side - size + 1) for side in shape[::-1])
    columns, left, right = _source(left, (width - 4) / shape[0], x, size, width)
    rows, top, bottom = _source(top, (height - 4) / shape[1], y, size, height)
    image = Image.fromarray(pixels[rows, columns])
    image = image.resize((size, size), method, box=(left, top, right, bottom))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    return np.asarray(image)


def _source(offset, ratio, first, size, length):
    """(the pixels that a crop depends on, its two ends among them), along one axis.

    offset, ratio: where scaled pixel 0 begins, and how many pixels of the photo each one covers.
    """
    start, end = offset + first * ratio, offset + (first + size) * ratio
    around = SUPPORT * max(ratio, 1.0) + 1
    low, high = max(0, math.floor(start - around)), min(length, math.ceil(end + around))
    return slice(low, high), start - low, end - low
