"""Adaptive block transform coding of 8-bit photos; decoding is exact integer arithmetic.

    minimise  squared RGB error + lambda * bits

Orthonormal colour transform, blocks of 8, 16 and 32 pixels chosen per superblock (dct_transform),
one step size for all coefficients, magnitudes chosen by rate and distortion (dct_coder), tables
chosen by an integer network from what is already known (dct_context). Everything learned is integer
and ships in dct_tables.npz; benchmarks/train_dct.py makes it.

Section "data" of a payload, little-endian: u16, the step in 1/16; then the tiles (dct_tile) that
dct_geometry.tiles cuts the photo into.
"""

import importlib.resources
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxcomp import coding
from jaxcomp.base import Codec, CorruptStream, Payload
from jaxcomp.coding.tables import with_certain

from . import dct_tile as tile
from .dct_coder import Choices, Model, symbol_bits
from .dct_context import CERTAIN, Network
from .dct_geometry import tiles
from .quality import MAX_STEP, MIN_STEP, find_step
from .samples import from_colour, read_shape, to_colour


def dct() -> Codec:
    """The codec: encode(params, image, quality=50 or bpp=0.5), decode(params, payload)."""
    return Codec(init, apply, encode, decode, "dct")


def init(key: Any = None) -> Model:
    """The model that the package ships; key is not used."""
    path = importlib.resources.files(__package__) / "dct_tables.npz"
    with path.open("rb") as file, np.load(file) as stored:
        return build(dict(stored))


def build(stored: dict[str, np.ndarray]) -> Model:
    """The model of the stored integers."""
    network = Network(*(stored[name].astype(np.int32) for name in Network._fields))
    tables = coding.build_tables(stored["frequencies"].astype(np.float64) + 1)
    tables = with_certain(tables, CERTAIN)
    offsets, weights = stored["offsets"].astype(np.int64), stored["weights"].astype(np.int32)
    return Model(network, tables, symbol_bits(tables), offsets, weights)


def apply(params: Model, image: np.ndarray, **options: Any) -> tuple[np.ndarray, float]:
    """(reconstruction, bits by the tables' code lengths) of an image, as encode would write it."""
    image = np.asarray(image)
    colour = to_colour(image, "dct")
    step = _find_step(params, colour, **options)
    parts, bits = [], 0.0
    for where, choices in _analyse(params, colour, step):
        planes = np.flatnonzero(choices.planes)
        rows = choices.index[planes], choices.values[planes]
        parts.append((where, tile.samples(params, where, step, choices.modes, planes, *rows)))
        bits += float(choices.bits)
    return _assemble(parts, image.shape), bits


def encode(
    params: Model,
    image: np.ndarray,
    *,
    quality: float | int | None = None,
    bpp: float | int | None = None,
) -> Payload:
    """u8[h, w, 3], u8[h, w, 1] or u8[h, w] -> Payload.

    quality: 1 .. 100, by default 50, PSNR near JPEG's at the same number. bpp: bits per pixel to
    stay at or below, instead of a quality. Raises UnsupportedInput for other images.
    """
    image = np.asarray(image)
    colour = to_colour(image, "dct")
    step = _find_step(params, colour, quality=quality, bpp=bpp)
    parts = [struct.pack("<H", step)]
    parts += [tile.write(params, choices) for _, choices in _analyse(params, colour, step)]
    return Payload({"shape": list(image.shape)}, {"data": b"".join(parts)})


def decode(params: Model, payload: Payload) -> np.ndarray:
    """The image, the same on every device. Raises CorruptStream for what encode did not write."""
    shape = read_shape(payload.header)
    data = payload.sections.get("data", b"")
    if len(data) < 2:
        raise CorruptStream("expected a section 'data' of at least 2 bytes; the file is damaged")
    (step,) = struct.unpack_from("<H", data)
    if not MIN_STEP <= step <= MAX_STEP:
        raise CorruptStream(f"expected a step of {MIN_STEP} to {MAX_STEP}, got {step}")
    if 11 * -(-shape[0] * shape[1] // (1 << 19)) > len(data):
        raise CorruptStream(f"expected more than {len(data)} bytes for an image of {shape}")
    position, pieces = 2, []
    for where in tiles(shape[0], shape[1]):
        piece, position = tile.split(data, position)
        pieces.append((where, piece))
    if position != len(data):
        raise CorruptStream(f"expected the end of the data, got {len(data) - position} more bytes")
    return _assemble(
        ((where, tile.read_tile(params, where, step, *piece)) for where, piece in pieces), shape
    )


def _find_step(params, colour, *, quality=None, bpp=None):
    """The step in 1/16 for a quality or a rate."""

    def bits(step):
        return sum(float(choices.bits) for _, choices in _analyse(params, colour, step))

    pixels, count = colour.shape[0] * colour.shape[1], len(tiles(*colour.shape[:2]))
    return find_step(
        bits, quality, bpp, pixels=pixels, overhead_bits=8 * count * (20 + 3 * tile.LANES)
    )


def _analyse(params, colour, step) -> Iterator[tuple[tuple[int, int, int, int], Choices]]:
    for where in tiles(*colour.shape[:2]):
        y, x, height, width = where
        yield where, tile.analyse(params, colour[y : y + height, x : x + width], step)


def _assemble(parts, shape):
    out = np.zeros((shape[0], shape[1], 3), np.uint8)
    for (y, x, height, width), samples in parts:
        out[y : y + height, x : x + width] = samples
    return from_colour(out, shape)
