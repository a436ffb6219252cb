"""Latents to bytes and back, in integers: what follows training.

    latents in groups: slice after slice, pass after pass; each group's tables follow from those
    before it

Section "data" of a payload, little-endian:

    u16     the step in 1/16, and for each tile (latent_tiles), row by row,
    u16     bytes of active channels (latent_flags): all others are 0 in all of the tile
    u32     bytes of the side information's rANS stream
    u32     bytes of the latents' rANS stream
            and the three of them

Tiles decode independently. Flags are a tile's own: an encoder sees each tile once.
"""

import functools
import itertools
import struct
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from jaxcomp import coding
from jaxcomp.base import Codec, CorruptStream, Payload
from jaxcomp.nets import gain

from .dct_transform import to_samples
from .latent_codec import GAIN_BITS, Design, init, networks, train
from .latent_flags import pack_flags, unpack_flags
from .latent_frozen import CERTAIN, WIDE_SLICES, Frozen, freeze
from .latent_prior import LATENT, SIDE, SIDE_STRIDE, lattice, level_of, restore
from .latent_refine import refine
from .latent_rounding import SILENT_ROWS, decide
from .latent_tiles import Tile, count_tiles, cut, one_tile, padded_shape, tiles
from .latent_transforms import BLOCK, CELL, scale_planes, to_planes
from .message import read_message
from .quality import MAX_STEP, MIN_STEP, RATE_WEIGHT, find_step
from .samples import from_colour, read_shape, to_colour

LANES = 16  # a lane costs about 20 bits
OVERHEAD_BITS = 8 * (90 + 3 * LANES)  # what a tile takes beside its symbols
HEAD, TILE_HEAD = struct.Struct("<H"), struct.Struct("<HII")
# Blocks that Analysis sees around each: 2 convolutions on cells of half a block, 4 on blocks.
ANALYSIS_HALO = 5


def synthesis_halo(design: Design) -> int:
    """Blocks that determine the samples of a tile, around it: each convolution reaches a cell."""
    return -(-networks(design).synthesis.blocks * CELL // BLOCK)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _analyse(design, shape, analysis, prior, inverse_gains, samples, corner, step):
    """Latents in units of their steps, the squared size of those steps, and side information.

    samples are those of a window, all else is of the tile: of `shape`, in blocks, at `corner`.
    """
    nets = networks(design)
    planes = to_planes(samples[None].astype(jnp.float32))
    scale = (1 << GAIN_BITS) / inverse_gains[level_of(step)].astype(jnp.float32)
    y = nets.analysis.apply(analysis, planes, step[None] / 16.0)
    y = scale * jax.lax.dynamic_slice(y, (0, *corner, 0), (1, *shape, y.shape[-1]))
    z = nets.prior.apply(prior, y, method="summarise")
    return y, scale**2, jnp.clip(jnp.floor(z + 0.5), SIDE.low, SIDE.high).astype(jnp.int32)


def _walk(design, integers, z, step, visit):
    """The latents [1, h, w, c] of side information; visit codes one group after the other.

    visit(k, places, channels, mean, row) -> symbols; all three [places, channels].
    """
    module = networks(design).prior
    prior = functools.partial(module.apply, integers)
    z = z.astype(SIDE.dtype)
    known, decoded, start = prior(z, level_of(step)[None], method="begin"), [], 0
    for k, size in enumerate(design.slices):
        channels, passes = slice(start, start + size), module.passes_of(k)
        order = lattice(known.shape[1:3], passes).ravel()
        part = jnp.zeros((*known.shape[:3], size), LATENT.dtype)
        for number in range(passes):
            group = prior(k, number, known, part, z, method="group")
            places = np.flatnonzero(order == number)
            mean, row = (x.reshape(-1, size)[places] for x in group)
            symbols = visit(k, places, channels, mean, row.astype(jnp.int32))
            flat = part.reshape(-1, size).at[places].set(restore(symbols, mean))
            part = flat.reshape(part.shape)
        known = prior(k, known, part, method="go_on")
        decoded.append(part)
        start += size
    return jnp.concatenate(decoded, -1)


class Choices(NamedTuple):
    """What the encoder decided: the latents, and the symbols and rows of each group."""

    latents: np.ndarray  # LATENT [1, h, w, c]
    symbols: list[np.ndarray]  # i32[places, channels]
    rows: list[np.ndarray]
    side: np.ndarray  # i32[1, h / 4, w / 4, side]
    active: np.ndarray  # bool[c]


@functools.partial(jax.jit, static_argnums=0)
def _choose(design, integers, y, weight, z, step):
    symbols, rows = [], []
    by_place = y.reshape(-1, y.shape[-1])

    def visit(k, places, channels, mean, row):
        value = by_place[places, channels] - mean.astype(jnp.float32) * LATENT.step
        found = decide(value, row, RATE_WEIGHT * weight[channels]).astype(jnp.int32)
        symbols.append(jnp.where(row < SILENT_ROWS, 0, found))
        rows.append(jnp.where(row < SILENT_ROWS, CERTAIN, row))
        return symbols[-1]

    return _walk(design, integers, z, step, visit), symbols, rows


def analyse(
    design: Design,
    frozen: Frozen,
    samples: UInt8[np.ndarray, "h w 3"],
    step: int,
    tile: Tile | None = None,
    iterations: int = 0,
) -> Choices:
    """What to write for a tile of a photo at a step in 1/16; by default the photo is one tile.

    iterations: of latent_refine.
    """
    box, window = tile or one_tile(*samples.shape[:2])
    shape = box.height // BLOCK, box.width // BLOCK
    corner = tuple(np.int32(s.start) for s in box.within(window).slices(BLOCK))
    encoder = frozen.analysis, frozen.prior, frozen.inverse_gains
    seen = cut(samples, window)
    y, weight, z = _analyse(design, shape, *encoder, seen, corner, np.int32(step))
    y = refine(design, frozen, y, weight, z, samples[box.slices()], step, iterations)
    chosen = _choose(design, frozen.prior_integers, y, weight, z, np.int32(step))
    latents, symbols, rows = jax.device_get(chosen)
    by_slice = np.split(np.arange(sum(design.slices)), np.cumsum(design.slices)[:-1])
    active = np.zeros(sum(design.slices), bool)
    for k, group in zip(_slice_of_groups(design), symbols, strict=True):
        active[by_slice[k]] |= (group != 0).any(0)
    rows = [
        np.where(active[by_slice[k]], row, CERTAIN).astype(np.int32)
        for k, row in zip(_slice_of_groups(design), rows, strict=True)
    ]
    return Choices(latents, symbols, rows, np.asarray(z), active)


def _slice_of_groups(design):
    passes = networks(design).prior.passes_of
    return [k for k in range(len(design.slices)) for _ in range(passes(k))]


def bits(design: Design, frozen: Frozen, choices: Choices) -> float:
    """Ideal code lengths of all symbols under the integer tables, and those of escapes."""
    total = _ideal_bits(frozen.side, choices.side, _side_rows(choices.side.shape))
    for k, symbols, rows in zip(
        _slice_of_groups(design), choices.symbols, choices.rows, strict=True
    ):
        total += _ideal_bits(_tables(frozen, k), symbols, rows)
    return total


def _tables(frozen, k):
    return frozen.wide if k < WIDE_SLICES else frozen.narrow


def _ideal_bits(tables, symbols, rows):
    column, outside = _outside(tables, symbols, rows)
    last = tables.entries.shape[1] - 1
    frequency = (np.asarray(tables.entries)[rows, np.where(outside, last, column)] >> 16) + 1.0
    # What lies outside follows as an exponential Golomb code of about twice its distance.
    beyond = np.where(column < 0, -column, column - last)[outside]
    codes = 2 * np.floor(np.log2(2.0 * beyond + 2)) + 1
    return float((tables.precision - np.log2(frequency)).sum() + codes.sum())


def _outside(tables, symbols, rows):
    """The column of each symbol, and whether it lies outside its table."""
    column = symbols - np.asarray(tables.offset)[rows]
    return column, (column < 0) | (column >= tables.entries.shape[1] - 1)


def _side_rows(shape):
    return np.broadcast_to(np.arange(shape[-1], dtype=np.int32), shape)


def write(design: Design, frozen: Frozen, step: int, choices: Iterable[Choices]) -> bytes:
    """Section "data" of all tiles."""
    return HEAD.pack(step) + b"".join(_write_tile(design, frozen, tile) for tile in choices)


def _write_tile(design, frozen, choices):
    slices = _slice_of_groups(design)
    nothing = np.zeros(0, np.int32)
    parts = {key: ([nothing], [nothing]) for key in (False, True)}
    for k, symbols, rows in zip(slices, choices.symbols, choices.rows, strict=True):
        into = parts[k < WIDE_SLICES]
        into[0].append(_whole_steps(symbols, 0, np))
        into[1].append(_whole_steps(rows, CERTAIN, np))
    narrow, wide = ([np.concatenate(x) for x in parts[key]] for key in (False, True))
    room = len(narrow[0]) + len(wide[0])
    stream = coding.encode(frozen.narrow, *narrow, lanes=LANES, capacity=room)
    first = len(stream.escapes)
    escapes = np.pad(np.asarray(stream.escapes), (0, room - first))
    stream = coding.push(stream._replace(escapes=escapes), frozen.wide, *wide)
    # A stack: what is popped first must lie on top, group by group.
    escapes = np.array(stream.escapes)
    for key, start in ((False, 0), (True, first)):
        lengths = [
            int(_outside(_tables(frozen, k), symbols, rows)[1].sum())
            for k, symbols, rows in zip(slices, choices.symbols, choices.rows, strict=True)
            if (k < WIDE_SLICES) == key
        ]
        groups = np.split(escapes[start : start + sum(lengths)], np.cumsum(lengths)[:-1])
        escapes[start : start + sum(lengths)] = np.concatenate([nothing, *groups[::-1]])
    stream = stream._replace(escapes=escapes)
    side = coding.encode(frozen.side, choices.side, _side_rows(choices.side.shape))
    parts = pack_flags(choices.active), coding.to_bytes(side), coding.to_bytes(stream)
    return TILE_HEAD.pack(*map(len, parts)) + b"".join(parts)


def _whole_steps(x, rest, xp):
    """x in one row, filled up to whole steps of all lanes: then a part pops as it was pushed."""
    return xp.pad(x.ravel(), (0, -x.size % LANES), constant_values=rest)


@functools.partial(jax.jit, static_argnums=0)
def _read(design, integers, tables, stream, z, step, active):
    """(latents, whether the stream ended as it must)."""
    state = [stream]

    def visit(k, places, channels, mean, row):
        index = jnp.where(active[channels] & (row >= SILENT_ROWS), row, CERTAIN)
        flat = _whole_steps(index, CERTAIN, jnp)
        symbols, state[0] = coding.pop(state[0], tables[k >= WIDE_SLICES], flat)
        return symbols[: index.size].reshape(index.shape)

    latents = _walk(design, integers, z, step, visit)
    return latents, coding.is_finished(state[0])


def paint(
    design: Design, frozen: Frozen, latents: Int[Array | np.ndarray, "b h w c"], step: int
) -> UInt8[Array, "b height width 3"]:
    """The samples of latents at a step in 1/16: integers all the way."""
    return _paint(design, frozen.synthesis_integers, frozen.inverse_gains, latents, jnp.int32(step))


@functools.partial(jax.jit, static_argnums=0)
def _paint(design, integers, inverse_gains, latents, step):
    row = inverse_gains[level_of(step)]
    latents = gain.multiply(latents, row, source=LATENT, target=LATENT, fraction=GAIN_BITS)
    planes = networks(design).synthesis.apply(integers, latents)
    planes = jnp.moveaxis(scale_planes(planes, step), -1, 1)
    return jnp.moveaxis(to_samples(planes), 1, -1).astype(jnp.uint8)


def paint_tiles(
    design: Design,
    frozen: Frozen,
    latents: Int[np.ndarray, "1 h w c"],
    step: int,
    shape: tuple[int, int],
) -> UInt8[np.ndarray, "height width 3"]:
    """What paint says of a photo of this shape, a window at a time."""
    samples = np.empty((*shape, 3), np.uint8)
    for box, window in tiles(*shape, halo=synthesis_halo(design)):
        seen = np.asarray(paint(design, frozen, latents[:, *window.slices(BLOCK)], step))
        target = samples[box.slices()]
        inner = box.within(window)._replace(height=target.shape[0], width=target.shape[1])
        target[...] = seen[0, *inner.slices()]
    return samples


def read(
    design: Design, frozen: Frozen, data: bytes, shape: tuple[int, int]
) -> tuple[Int[np.ndarray, "1 h w c"], int]:
    """(LATENT integers, step in 1/16) of section "data". Raises CorruptStream."""
    step, parts = _split(data, count_tiles(*shape))
    if not MIN_STEP <= step <= MAX_STEP:
        raise CorruptStream(f"expected a step of {MIN_STEP} to {MAX_STEP}, got {step}")
    rows, columns = (n // BLOCK for n in padded_shape(*shape))
    latents = np.empty((1, rows, columns, sum(design.slices)), LATENT.dtype)
    for (box, _), part in zip(tiles(*shape, halo=0), parts, strict=True):
        latents[:, *box.slices(BLOCK)] = _read_tile(design, frozen, box, step, *part)
    return latents, step


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
    rows = _side_rows((1, height // SIDE_STRIDE, width // SIDE_STRIDE, design.side))
    z = coding.decode(frozen.side, coding.from_bytes(side, max_escapes=rows.size), rows)
    z = np.clip(z, SIDE.low, SIDE.high)
    stream = read_message(data, lanes=LANES, words=room, escapes=room)
    tables = frozen.wide, frozen.narrow
    latents, finished = _read(
        design, frozen.prior_integers, tables, stream, z, np.int32(step), active
    )
    if not finished:
        raise CorruptStream(
            "expected the latents to end where an encoder began; the file is damaged, or was "
            "written with other weights"
        )
    return np.asarray(latents)


def latent_codec(design: Design) -> Codec:
    """The codec of a design.

    init(key) gives floats to train; apply(params, images, key=, quality=) is what training sees;
    encode and decode take those, or what freeze made of them once. encode and apply refine latents
    so many iterations: smaller files, and a second or so for each; with bpp= for each step tried.
    """

    def frozen(params):
        return params if isinstance(params, Frozen) else freeze(design, params)

    def choose(params, image, quality, bpp, iterations):
        """(step, the choices of each tile)."""
        colour = to_colour(image, design.name)
        height, width = colour.shape[:2]
        count, last = count_tiles(height, width), {}

        def choices(step):
            if step not in last:
                found = (
                    analyse(design, params, colour, step, tile, iterations)
                    for tile in tiles(height, width, halo=ANALYSIS_HALO)
                )
                if count > 1:
                    return found  # too many to keep: one at a time, and again when they are written
                last.clear()
                last[step] = list(found)
            return last[step]

        step = find_step(
            lambda step: sum(bits(design, params, tile) for tile in choices(step)),
            quality,
            bpp,
            pixels=height * width,
            overhead_bits=count * OVERHEAD_BITS,
        )
        return step, choices(step)

    def apply(params, image, *, key=None, quality=None, bpp=None, refine=0):
        if key is not None:
            return train(design, params, image, key, quality)
        params, image = frozen(params), np.asarray(image)
        step, choices = choose(params, image, quality, bpp, refine)
        rows, columns = (n // BLOCK for n in padded_shape(*image.shape[:2]))
        latents = np.empty((1, rows, columns, sum(design.slices)), LATENT.dtype)
        total = 0.0
        for (box, _), tile in zip(tiles(*image.shape[:2], halo=0), choices, strict=True):
            latents[:, *box.slices(BLOCK)] = tile.latents
            total += bits(design, params, tile)
        samples = paint_tiles(design, params, latents, step, image.shape[:2])
        return from_colour(samples, image.shape), total

    def encode(params, image, *, quality=None, bpp=None, refine=0):
        params, image = frozen(params), np.asarray(image)
        step, choices = choose(params, image, quality, bpp, refine)
        data = write(design, params, step, choices)
        return Payload({"shape": list(image.shape)}, {"data": data})

    def decode(params, payload):
        params, shape = frozen(params), read_shape(payload.header)
        data = payload.sections.get("data", b"")
        latents, step = read(design, params, data, shape[:2])
        return from_colour(paint_tiles(design, params, latents, step, shape[:2]), shape)

    return Codec(functools.partial(init, design), apply, encode, decode, design.name)
