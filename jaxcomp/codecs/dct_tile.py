"""One tile of a photo to bytes and back.

u8    frequencies coded of each channel, 3 times (the rest are zero)
u32   bytes of the rANS stream, which follows: modes, then planes in coding order
u32   bytes of signs and places, which follow (dct_symbols)
"""

import functools
import struct

import jax
import numpy as np

from jaxcomp import coding
from jaxcomp.base import CorruptStream

from . import dct_filter as filters
from . import dct_symbols as symbols
from .dct_coder import STEP_BITS, STEP_CLASSES, Choices, Model, choose, read
from .dct_context import CERTAIN, FREQUENCIES, PLANES
from .dct_filter import MARGIN
from .dct_geometry import CAPACITIES, SUPERBLOCK, Geometry, geometry
from .dct_synthesis import reconstruct, synthesise
from .message import read_message

LANES = 16  # a lane costs about 20 bits; 16 decode a photo in well under a second
RATE_WEIGHT = 0.06  # lambda / step**2, by measurement: half of d(step**2 / 12) / d(bits)

_choose = jax.jit(choose, static_argnames="trace")
_read = jax.jit(read)
_synthesise = jax.jit(synthesise)


def _run(program, *arguments):
    """A program on arrays of the host, with its results there."""
    return jax.tree.map(np.asarray, program(*jax.device_put(arguments)))


@functools.lru_cache(maxsize=8)
def grid_of(height: int, width: int) -> Geometry:
    """The geometry of a tile of that many pixels."""
    rows, columns = -(-height // SUPERBLOCK) * 2, -(-width // SUPERBLOCK) * 2
    capacity = next(c for c in CAPACITIES if c >= rows * columns)
    return geometry(rows, columns, capacity)


def analyse(model: Model, tile: np.ndarray, step: int) -> Choices:
    """What to write for the samples u8[h, w, 3] of a tile, on the host."""
    grid = grid_of(*tile.shape[:2])
    blocks = _to_blocks(tile, len(grid.members))
    grid = grid._replace(order=())
    weight = np.float32(RATE_WEIGHT)
    return _run(_choose, model.network, model.bits, blocks, grid, np.int32(step), weight)


def write(model: Model, choices: Choices) -> bytes:
    """The bytes of a tile."""
    planes = np.flatnonzero(choices.planes)

    def fill(modes, rows, rest):
        # Coding 0 from the certain table changes nothing, so every tile can have one shape.
        used = np.concatenate([modes, rows[planes].reshape(-1)])
        out = np.full((PLANES + 2) * CAPACITIES[-1], rest, np.int32)
        out[: len(used)] = used
        return out

    stream = coding.encode(
        model.tables,
        fill(choices.mode_symbols, choices.symbols, 0),
        fill(choices.mode_index, choices.index, CERTAIN),
        lanes=LANES,
        in_parts=True,
    )
    packed = coding.to_bytes(stream)
    raw = symbols.pack(choices.values[planes], choices.symbols[planes])
    counts = choices.planes.reshape(3, -1).sum(1) - 1
    return struct.pack("<3BI", *counts, len(packed)) + packed + struct.pack("<I", len(raw)) + raw


def split(data: bytes, position: int) -> tuple[tuple, int]:
    """((counts, rANS bytes, raw bytes), the position after them). Raises CorruptStream."""
    if position + 11 > len(data):
        raise CorruptStream(f"expected a tile of at least 11 bytes, got {len(data) - position}")
    *counts, size = struct.unpack_from("<3BI", data, position)
    packed = data[position + 7 : position + 7 + size]
    position += 7 + size
    if position + 4 > len(data):
        raise CorruptStream(f"expected {size} bytes of coded symbols, got {len(packed)}")
    (size,) = struct.unpack_from("<I", data, position)
    raw = data[position + 4 : position + 4 + size]
    if len(raw) != size:
        raise CorruptStream(f"expected {size} bytes of signs and places, got {len(raw)}")
    return (counts, packed, raw), position + 4 + size


def read_tile(model: Model, where: tuple, step: int, counts, packed: bytes, raw: bytes):
    """The samples u8[height, width, 3] of a tile. Raises CorruptStream."""
    grid = grid_of(*where[2:])
    capacity = len(grid.valid)
    stream = read_message(packed, lanes=LANES, words=(PLANES + 2) * capacity)
    position = np.arange(FREQUENCIES)
    coded = (position < np.array(counts)[:, None]) | (position == FREQUENCIES - 1)
    planes = np.flatnonzero(coded)
    order = np.zeros(PLANES, np.int32)
    order[: len(planes)] = planes
    arguments = stream, grid._replace(order=()), np.int32(step), order, np.int32(len(planes))
    modes, found, tables, finished = _run(_read, model.network, model.tables, *arguments)
    if not finished:
        raise CorruptStream(
            "expected the coded symbols to end where an encoder began; the file is damaged, or "
            "was written with other tables"
        )
    found, tables = found[: len(planes)], tables[: len(planes)]
    values = symbols.unpack(raw, found)
    return samples(model, where, step, modes, planes, tables, values)


def samples(model, where, step, modes, planes, tables, values):
    """The samples u8[height, width, 3] of a tile from its decoded integers."""
    height, width = where[2:]
    grid = grid_of(height, width)
    coefficients = reconstruct(model.offsets, grid, step, planes, tables, values)
    rows, columns = -(-height // SUPERBLOCK), -(-width // SUPERBLOCK)
    index, stride = _canvas(rows, columns, len(grid.valid))
    weights = filters.join(model.weights[_step_class(step)])
    arguments = index, np.int32(stride), np.int32(step), weights
    canvas = _run(_synthesise, coefficients, modes, grid._replace(order=()), *arguments)
    used = (rows * SUPERBLOCK + 2 * MARGIN) * stride
    image = canvas[:, :used].reshape(3, -1, stride)
    return image[:, MARGIN : MARGIN + height, MARGIN : MARGIN + width].transpose(1, 2, 0)


@functools.lru_cache(maxsize=4)
def _canvas(rows, columns, capacity):
    return filters.canvas_map(rows, columns, filters.canvas_size(capacity))


def _step_class(step):
    """dct_coder.step_class on the host."""
    return min(max((step >> STEP_BITS).bit_length() - 4, 0), STEP_CLASSES - 1)


def _to_blocks(tile, count):
    """Superblocks u8[count, 32, 32, 3]; the edge is repeated to fill the last ones."""
    tile = np.pad(tile, ((0, -tile.shape[0] % 32), (0, -tile.shape[1] % 32), (0, 0)), mode="edge")
    rows, columns = tile.shape[0] // 32, tile.shape[1] // 32
    blocks = np.zeros((count, 32, 32, 3), np.uint8)
    blocks[: rows * columns] = (
        tile.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    )
    return blocks
