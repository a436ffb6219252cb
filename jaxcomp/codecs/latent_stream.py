"""The integers of tiles to bytes and back.

Section "data" of a payload, little-endian:

    u16     the step in 1/16, and for each tile (latent_tiles), row by row,
    u16     bytes of active channels (latent_flags): all others are 0 in all of the tile
    u32     bytes of the side information's rANS stream
    u32     bytes of the rANS stream of modes and latents
            and the three of them

Tiles decode independently. Flags are a tile's own: an encoder sees each tile once.
"""

import functools
import itertools
import math
import struct
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from jaxcomp import coding
from jaxcomp.base import CorruptStream
from jaxcomp.coding import Tables

from .latent_codec import Design
from .latent_flags import pack_flags, unpack_flags
from .latent_frozen import CERTAIN, WIDE_SLICES, Frozen
from .latent_prior import LATENT, OCTAVES, SIDE, SIDE_STRIDE
from .latent_rounding import SILENT_ROWS
from .latent_tiles import count_tiles, padded_shape, tiles
from .latent_transforms import BLOCK
from .latent_walk import (
    Choices,
    mode_rows,
    outside,
    side_rows,
    slices_of_groups,
    tables_of,
    walk,
)
from .message import read_message
from .quality import MAX_STEP, MIN_STEP

LANES = 16  # a lane costs about 20 bits
OVERHEAD_BITS = 8 * (70 + 3 * LANES)  # what a tile takes beside its symbols
HEAD, TILE_HEAD = struct.Struct("<H"), struct.Struct("<HII")


def write(design: Design, frozen: Frozen, step: int, choices: Iterable[Choices]) -> bytes:
    """Section "data" of all tiles."""
    return HEAD.pack(step) + b"".join(_write_tile(design, frozen, step, tile) for tile in choices)


def _write_tile(design, frozen, step, choices):
    slices = slices_of_groups(design)
    nothing = np.zeros(0, np.int32)
    parts = {key: ([nothing], [nothing]) for key in (False, True)}
    for k, symbols, rows in zip(slices, choices.symbols, choices.rows, strict=True):
        into = parts[k < WIDE_SLICES]
        into[0].append(_whole_steps(symbols, 0, np))
        into[1].append(_whole_steps(rows, CERTAIN, np))
    narrow, wide = ([np.concatenate(x) for x in parts[key]] for key in (False, True))
    room = len(narrow[0]) + len(wide[0]) + choices.latents[0, ..., 0].size + LANES
    stream = coding.encode(frozen.narrow, *narrow, lanes=LANES, capacity=room)
    first = len(stream.escapes)
    escapes = np.pad(np.asarray(stream.escapes), (0, room - first))
    stream = coding.push(stream._replace(escapes=escapes), frozen.wide, *wide)
    # A stack: what is popped first must lie on top, group by group.
    escapes = np.array(stream.escapes)
    for key, start in ((False, 0), (True, first)):
        lengths = [
            int(outside(tables_of(frozen, k), symbols, rows)[1].sum())
            for k, symbols, rows in zip(slices, choices.symbols, choices.rows, strict=True)
            if (k < WIDE_SLICES) == key
        ]
        groups = np.split(escapes[start : start + sum(lengths)], np.cumsum(lengths)[:-1])
        escapes[start : start + sum(lengths)] = np.concatenate([nothing, *groups[::-1]])
    stream = stream._replace(escapes=escapes)
    if choices.modes is not None:
        modes = _whole_steps(choices.modes, 0, np)
        stream = coding.push(stream, frozen.modes, modes, _mode_rows(step, choices.modes.shape, np))
    side = coding.encode(frozen.side, choices.side, side_rows(choices.side.shape))
    parts = pack_flags(choices.active), coding.to_bytes(side), coding.to_bytes(stream)
    return TILE_HEAD.pack(*map(len, parts)) + b"".join(parts)


def _whole_steps(x, rest, xp):
    """x in one row, filled up to whole steps of all lanes: then a part pops as it was pushed."""
    return xp.pad(x.ravel(), (0, -x.size % LANES), constant_values=rest)


class _Tables(NamedTuple):
    """Those of Frozen that a program of reading needs."""

    wide: Tables
    narrow: Tables
    modes: Tables | None


@functools.partial(jax.jit, static_argnums=0)
def _read(design, integers, tables, stream, z, step, active):
    """(latents, modes, whether the stream ended as it must)."""
    state, modes = [stream], None
    if design.split:
        shape = 1, *(n * SIDE_STRIDE for n in z.shape[1:3])
        flat, state[0] = coding.pop(stream, tables.modes, _mode_rows(step, shape, jnp))
        modes = flat[: math.prod(shape)].reshape(shape)

    def visit(k, places, channels, mean, row):
        index = jnp.where(active[channels] & (row >= SILENT_ROWS), row, CERTAIN)
        flat = _whole_steps(index, CERTAIN, jnp)
        symbols, state[0] = coding.pop(state[0], tables[k >= WIDE_SLICES], flat)
        return symbols[: index.size].reshape(index.shape)

    latents = walk(design, integers, z, step, modes, visit)
    return latents, modes, coding.is_finished(state[0])


def _mode_rows(step, shape, xp):
    return _whole_steps(xp.asarray(mode_rows(step, shape)), OCTAVES, xp)


def read(
    design: Design, frozen: Frozen, data: bytes, shape: tuple[int, int]
) -> tuple[Int[np.ndarray, "1 h w c"], Int[np.ndarray, "1 h w"] | None, int]:
    """(LATENT integers, modes, step in 1/16) of section "data". Raises CorruptStream."""
    step, parts = _split(data, count_tiles(*shape))
    if not MIN_STEP <= step <= MAX_STEP:
        raise CorruptStream(f"expected a step of {MIN_STEP} to {MAX_STEP}, got {step}")
    rows, columns = (n // BLOCK for n in padded_shape(*shape))
    latents = np.empty((1, rows, columns, sum(design.slices)), LATENT.dtype)
    modes = np.empty((1, rows, columns), np.int32) if design.split else None
    for (box, _), part in zip(tiles(*shape, halo=0), parts, strict=True):
        found = _read_tile(design, frozen, box, step, *part)
        latents[:, *box.slices(BLOCK)] = found[0]
        if modes is not None:
            modes[:, *box.slices(BLOCK)] = found[1]
    return latents, modes, step


def _split(data, count):
    """(step, the bytes of flags, side information and latents of each tile)."""
    if len(data) < HEAD.size + count * TILE_HEAD.size:
        raise CorruptStream(
            f"expected at least {HEAD.size + count * TILE_HEAD.size} bytes of {count} tiles, got "
            f"{len(data)}"
        )
    parts, position = [], HEAD.size
    for _ in range(count):
        if position + TILE_HEAD.size > len(data):
            raise CorruptStream(f"expected {count} tiles, got the end of data after {len(parts)}")
        sizes = TILE_HEAD.unpack_from(data, position)
        ends = np.cumsum((position + TILE_HEAD.size, *sizes)).tolist()
        position = ends[-1]
        parts.append([data[start:end] for start, end in itertools.pairwise(ends)])
    if position != len(data):
        raise CorruptStream(f"expected {position} bytes of {count} tiles, got {len(data)}")
    return *HEAD.unpack_from(data), parts


def _read_tile(design, frozen, box, step, flags, side, data):
    height, width = box.height // BLOCK, box.width // BLOCK
    room = height * width * sum(design.slices)
    active = unpack_flags(flags, sum(design.slices))
    rows = side_rows((1, height // SIDE_STRIDE, width // SIDE_STRIDE, design.side))
    z = coding.decode(frozen.side, coding.from_bytes(side, max_escapes=rows.size), rows)
    z = np.clip(z, SIDE.low, SIDE.high)
    stream = read_message(data, lanes=LANES, words=room, escapes=room)
    tables = _Tables(frozen.wide, frozen.narrow, frozen.modes)
    latents, modes, finished = _read(
        design, frozen.prior_integers, tables, stream, z, np.int32(step), active
    )
    if not finished:
        raise CorruptStream(
            "expected the latents to end where an encoder began; the file is damaged, or was "
            "written with other weights"
        )
    return np.asarray(latents), modes
