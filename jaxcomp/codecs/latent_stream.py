"""The integers of tiles to bytes and back.

Section "data" of a payload, little-endian:

    u16     the step in 1/16, and for each tile (latent_tiles), row by row,
    u16     bytes of active channels (latent_flags): all others are 0 in all of the tile
    u32     bytes of side information's own rANS stream, in the first files; else 0
    u32     bytes of the rANS stream of side information, modes and latents
            and the three of them

Tiles decode independently. Flags are a tile's own: an encoder sees each tile once.
"""

import functools
import itertools
import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from jaxcomp import coding
from jaxcomp.base import CorruptStream
from jaxcomp.coding import Tables
from jaxcomp.kernels.rans_lax import prefix_sum

from .compile_ahead import compile_ahead
from .latent_codec import Design, networks
from .latent_flags import pack_flags, unpack_flags
from .latent_frozen import CERTAIN, WIDE_SLICES, Frozen
from .latent_plane import SIDE_STRIDE, Layout, layout
from .latent_prior import LATENT, OCTAVES, SIDE
from .latent_tiles import count_tiles, padded_shape, tiles
from .latent_transforms import BLOCK
from .latent_walk import (
    LANES,
    Choices,
    coded_modes,
    group_programs,
    in_steps,
    mode_rows,
    outside,
    side_rows,
    slices_of_groups,
    tables_of,
    walk,
)
from .message import read_message
from .quality import MAX_STEP, MIN_STEP

OVERHEAD_BITS = 8 * (40 + 3 * LANES)  # what a tile takes beside its symbols
HEAD, TILE_HEAD = struct.Struct("<H"), struct.Struct("<HII")


def write(design: Design, frozen: Frozen, step: int, choices: Iterable[Choices]) -> bytes:
    """Section "data" of all tiles."""
    return HEAD.pack(step) + b"".join(_write_tile(design, frozen, step, tile) for tile in choices)


def writing_programs(add: Callable, design: Design, frozen: Frozen, where: Layout) -> None:
    """Adds those of writing a tile (compile_ahead): all tiles of a layout push the same shapes."""
    places, passes = where.cells.places, networks(design).prior.passes_of
    zeros = [
        np.zeros((len(places[passes(k)][number]), design.slices[k]), np.int32)
        for k in range(len(design.slices))
        for number in range(passes(k))
    ]
    blocks = len(where.cells.near), SIDE_STRIDE, SIDE_STRIDE
    modes = np.zeros(blocks, np.int32) if design.split else None
    side = side_rows(where, design.side)
    tile = Choices(np.zeros(0), modes, zeros, zeros, side, np.zeros(0), where)
    add(_pack, _pushed(design, frozen, MIN_STEP, tile))


def _pushed(design, frozen, step, choices):
    """(tables, symbols, rows), from the bottom of the stack."""
    nothing = np.zeros(0, np.int32)
    parts = {key: ([nothing], [nothing]) for key in (False, True)}
    groups = zip(slices_of_groups(design), choices.symbols, choices.rows, strict=True)
    for k, symbols, rows in groups:
        into = parts[k < WIDE_SLICES]
        into[0].append(in_steps(symbols, None, 0).ravel())
        into[1].append(in_steps(rows, None, CERTAIN).ravel())
    pushed = [(frozen.narrow, *parts[False]), (frozen.wide, *parts[True])]
    if choices.modes is not None:
        modes, rows = coded_modes(step, choices)
        pushed.append((frozen.modes, [modes], [rows]))
    if design.side:
        rows = side_rows(choices.layout, design.side)
        pushed.append((frozen.side, [choices.side.ravel()], [rows.ravel()]))
    return [(tables, np.concatenate(x), np.concatenate(y)) for tables, x, y in pushed]


def _write_tile(design, frozen, step, choices):
    slices, nothing = slices_of_groups(design), np.zeros(0, np.int32)
    pushed = _pushed(design, frozen, step, choices)
    stream = _pack(pushed)
    # A stack: what is popped first must lie on top, group by group.
    lengths = [
        [
            int(outside(tables_of(frozen, k), symbols, rows)[1].sum())
            for k, symbols, rows in zip(slices, choices.symbols, choices.rows, strict=True)
            if (k < WIDE_SLICES) == key
        ]
        for key in (False, True)
    ]
    escapes, start = np.array(stream.escapes), 0
    for sizes in lengths:
        groups = np.split(escapes[start : start + sum(sizes)], np.cumsum(sizes)[:-1])
        escapes[start : start + sum(sizes)] = np.concatenate([nothing, *groups[::-1]])
        start += sum(sizes)
    data = coding.to_bytes(stream._replace(escapes=escapes))
    flags = pack_flags(choices.active)
    return TILE_HEAD.pack(len(flags), 0, len(data)) + flags + data


@jax.jit
def _pack(pushed):
    """The stream of (tables, symbols, rows), one after the other."""
    count = sum(symbols.size for _, symbols, _ in pushed)
    return coding.push_each(coding.empty(LANES, count, escape_capacity=count), pushed)


class _Tables(NamedTuple):
    """Those of Frozen that a program of reading needs."""

    wide: Tables
    narrow: Tables
    modes: Tables | None
    side: Tables


@functools.partial(jax.jit, static_argnums=0)
def _begin(design, tables, stream, z, z_rows, step, cells):
    """(side information, modes, the stream without them)."""

    def pop(stream, table, rows, rest):
        flat, stream = coding.pop(stream, table, in_steps(rows, None, rest))
        return flat.ravel()[: rows.size].reshape(rows.shape), stream

    if z is None and not design.side:
        z = jnp.zeros(z_rows.shape, jnp.int32)
    elif z is None:
        z, stream = pop(stream, tables.side, z_rows, design.side)
        z = jnp.clip(z, SIDE.low, SIDE.high)
    if not design.split:
        return z, None, _ends(stream)
    places = cells.places[1][0]
    found, stream = pop(stream, tables.modes, mode_rows(step, places), OCTAVES)
    modes = jnp.zeros(len(places), jnp.int32).at[places].set(found, mode="drop")
    return z, modes.reshape(cells.shape(z)), _ends(stream)


@jax.jit
def _pop(stream, table, rows):
    """(symbols of rows [steps, LANES], the stream without them); those that are certain are 0."""
    # Most steps are of certain symbols alone: only others are taken.
    coded = (rows != CERTAIN).any(1)
    rank = prefix_sum(coded)
    order = jnp.zeros(len(rows), jnp.int32)
    order = order.at[jnp.where(coded, rank - 1, len(rows))].set(jnp.arange(len(rows)), mode="drop")
    found, stream = coding.pop(stream, table, rows[order].astype(jnp.int32), count=LANES * rank[-1])
    return jnp.where(coded[:, None], found[rank - 1], 0), _ends(stream)


_is_finished = jax.jit(coding.is_finished)


def _ends(stream):
    """What popping changes of a stream: programs that return its words would copy them."""
    return {name: getattr(stream, name) for name in ("head", "size", "escape_size")}


def _read(design, integers, tables, stream, z, z_rows, step, active, cells):
    """(latents of each slice, modes, whether the stream ended as it must).

    z: side information, where it is not in the stream; z_rows: the tables of what is.
    """
    z, modes, ends = _begin(design, tables, stream, z, z_rows, step, cells)

    def visit(k, number, mean, row):
        nonlocal ends
        symbols, ends = _pop(stream._replace(**ends), tables[k >= WIDE_SLICES], row)
        return symbols

    latents = walk(design, integers, z, step, modes, active, cells, visit)
    return latents, modes, _is_finished(stream._replace(**ends))


def _reading_programs(add, design, integers, tables, stream, z, z_rows, step, active, cells):
    """Those of _read."""
    z, modes, ends = add(_begin, design, tables, stream, z, z_rows, step, cells)
    rows = group_programs(add, design, integers, z, step, modes, cells)
    stream = stream._replace(**ends)
    for (_, wide), row in {(row.shape, k >= WIDE_SLICES): row for k, row in rows}.items():
        add(_pop, stream, tables[wide], row)
    add(_is_finished, stream)


def read(
    design: Design, frozen: Frozen, data: bytes, shape: tuple[int, int]
) -> tuple[Int[np.ndarray, "h w c"], Int[np.ndarray, "h w"] | None, int]:
    """(LATENT integers, modes, step in 1/16) of section "data". Raises CorruptStream."""
    step, parts = _split(data, count_tiles(*shape))
    if not MIN_STEP <= step <= MAX_STEP:
        raise CorruptStream(f"expected a step of {MIN_STEP} to {MAX_STEP}, got {step}")
    rows, columns = (n // BLOCK for n in padded_shape(*shape))
    latents = np.empty((rows, columns, sum(design.slices)), LATENT.dtype)
    modes = np.empty((rows, columns), np.int32) if design.split else None
    for (box, _), part in zip(tiles(*shape, halo=0), parts, strict=True):
        found = _read_tile(design, frozen, box, step, *part)
        latents[box.slices(BLOCK)] = found[0]
        if modes is not None:
            modes[box.slices(BLOCK)] = found[1]
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
    """(latents [h, w, c], modes [h, w]) of a tile."""
    where = layout(box.height // BLOCK, box.width // BLOCK)
    active = unpack_flags(flags, sum(design.slices))
    rows, z = side_rows(where, design.side), None
    if side:
        z = _read_side(design, frozen, where, side)
    # A word for each symbol, modes among them: no encoder writes more.
    room = len(where.cells.places[1][0]) * (sum(design.slices) + 1) + rows.size
    stream = read_message(data, lanes=LANES, words=room, escapes=room)
    tables = _Tables(frozen.wide, frozen.narrow, frozen.modes, frozen.side)
    given = jax.device_put((stream, z, rows, np.int32(step), active, where.cells))
    compile_ahead(
        ("read", design, len(where.cells.near), z is None),
        lambda add: _reading_programs(add, design, frozen.prior_integers, tables, *given),
    )
    latents, modes, finished = _read(design, frozen.prior_integers, tables, *given)
    if not finished:
        raise CorruptStream(
            "expected the latents to end where an encoder began; the file is damaged, or was "
            "written with other weights"
        )
    latents = np.concatenate(jax.device_get(latents), -1)
    return where.join(latents), None if modes is None else where.join(modes)


def _read_side(design, frozen, where, data):
    """Side information in a stream of its own, as the first files have it."""
    height, width = (n // SIDE_STRIDE for n in where.shape)
    rows = np.broadcast_to(np.arange(design.side, dtype=np.int32), (height, width, design.side))
    z = coding.decode(frozen.side, coding.from_bytes(data, max_escapes=rows.size), rows)
    return where.cut(np.clip(np.asarray(z), SIDE.low, SIDE.high))
