"""Latents to bytes and back, in integers: what follows training.

    latents, symbol by symbol, in groups: slice after slice, one colour of the checkerboard after
    the other where a slice has two; each group's tables follow from the groups before it

Section "data" of a payload, little-endian:

    u16     the step in 1/16
    u16     bytes of the active channels, which follow: u8 the first flag, u8 k, and runs of equal
            flags as exponential Golomb codes of length - 1; what is not active is 0 everywhere
    u32     bytes of the side information's rANS stream, which follows
    the rest is the latents' rANS stream
"""

import functools
import struct
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32, UInt8

from jaxcomp import coding, entropy
from jaxcomp.base import Codec, CorruptStream, Payload
from jaxcomp.coding import Tables, run_length, universal
from jaxcomp.nets.integer import to_integers

from .dct_transform import to_samples
from .latent_codec import UNIT, Design, init, networks, train
from .latent_prior import LATENT, SCALES, SIDE, anchors, restore
from .latent_transforms import scale_planes, to_planes
from .message import read_message
from .quality import MAX_STEP, MIN_STEP, find_step
from .samples import from_colour, read_shape, to_colour

LANES = 16  # a lane costs about 20 bits
OVERHEAD_BITS = 8 * (90 + 3 * LANES)  # what a file takes beside its symbols
# Slices after these are of high frequencies: their symbols rarely leave a narrow table, in which a
# symbol that is nearly certain costs 0.0007 bits instead of 0.006.
WIDE_SLICES = 2
WIDE_SYMBOLS, NARROW_SYMBOLS = 256, 32
CERTAIN = len(SCALES)  # the row of what is not active


class Frozen(NamedTuple):
    """What encodes and decodes: analysis in floats, everything a decoder needs in integers."""

    analysis: Any
    prior: Any  # floats of the part that makes side information
    prior_integers: Any
    synthesis_integers: Any
    side: Tables
    wide: Tables
    narrow: Tables


def freeze(design: Design, params: dict[str, Any]) -> Frozen:
    """The integers of trained parameters; once, after training."""
    nets = networks(design)
    latents = jnp.zeros((1, UNIT // 16, UNIT // 16, sum(design.slices)))
    wide, narrow = (
        entropy.gaussian(maximum_symbols=n, scales=SCALES).tables({})
        for n in (WIDE_SYMBOLS, NARROW_SYMBOLS)
    )
    encoder = {k: v for k, v in params["prior"]["params"].items() if k.startswith("squeeze")}
    return Frozen(
        params["analysis"],
        {"params": encoder},
        to_integers(nets.prior, params["prior"], latents),
        to_integers(nets.synthesis, params["synthesis"], latents),
        nets.side.tables(params["side"]),
        _with_certain(wide),
        _with_certain(narrow),
    )


def to_arrays(frozen: Frozen) -> dict[str, Any]:
    """Nested dicts of arrays, as a weights file holds them: tables by frequencies and offsets."""
    out = frozen._asdict()
    for name, rows in (("side", None), ("wide", -1), ("narrow", -1)):
        tables = out[name]
        frequencies = np.asarray(tables.frequencies)[:rows]
        out[name] = {"frequencies": frequencies, "offset": np.asarray(tables.offset)[:rows]}
    return out


def from_arrays(arrays: dict[str, Any]) -> Frozen:
    """The inverse of to_arrays."""
    arrays = dict(arrays)
    for name in ("side", "wide", "narrow"):
        stored = arrays[name]
        # Frequencies are their own best approximation: the tables come out as they were.
        tables = coding.build_tables(
            stored["frequencies"].astype(np.float64), offset=stored["offset"], escape=True
        )
        arrays[name] = tables if name == "side" else _with_certain(tables)
    return Frozen(**arrays)


def _with_certain(tables: Tables) -> Tables:
    """The tables and one more, in which 0 is certain: coding it changes nothing."""
    entries = np.pad(np.asarray(tables.entries), ((0, 1), (0, 0)))
    entries[-1] = 0xFFFF0000
    directory = np.pad(np.asarray(tables.directory), ((0, 1), (0, 0)))
    directory[-1, 0] = 0xFFFF0001  # symbol 0 begins in slot 0 and is that of every slot
    offset = np.pad(np.asarray(tables.offset), (0, 1))
    entries, directory, offset = jax.device_put((entries, directory, offset))
    return replace(tables, entries=entries, directory=directory, offset=offset)


def padded_shape(height: int, width: int) -> tuple[int, int]:
    """The sides of an image as networks see it: multiples of UNIT."""
    return -(-height // UNIT) * UNIT, -(-width // UNIT) * UNIT


@functools.partial(jax.jit, static_argnums=0)
def _analyse(design, analysis, prior, samples, step):
    nets = networks(design)
    planes = to_planes(samples[None].astype(jnp.float32))
    y = nets.analysis.apply(analysis, planes, step[None])
    z = nets.prior.apply(prior, y, method="summarise")
    return y, jnp.clip(jnp.floor(z + 0.5), SIDE.low, SIDE.high).astype(jnp.int32)


def _walk(design, integers, z, visit):
    """The latents [1, h, w, c] of side information; visit codes one group after the other.

    visit(k, places, channels, mean, row) -> symbols; all three [places, channels].
    """
    prior = functools.partial(networks(design).prior.apply, integers)
    known, decoded, start = prior(z.astype(SIDE.dtype), method="begin"), [], 0
    first = anchors(known.shape[1:3]).ravel()
    for k, size in enumerate(design.slices):
        channels = slice(start, start + size)
        found = jnp.zeros((first.size, size), LATENT.dtype)
        masks = (first, ~first) if k < design.two_passes else (np.ones_like(first),)
        for number, mask in enumerate(masks):
            shown = found.reshape(*known.shape[:3], size) if number else None
            group = prior(k, known, shown, method="group")
            places = np.flatnonzero(mask)
            mean, row = (x.reshape(-1, size)[places] for x in group)
            symbols = visit(k, places, channels, mean, row.astype(jnp.int32))
            found = found.at[places].set(restore(symbols, mean))
        part = found.reshape(*known.shape[:3], size)
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
def _choose(design, integers, y, z):
    symbols, rows = [], []
    by_place = y.reshape(-1, y.shape[-1])

    def visit(k, places, channels, mean, row):
        value = by_place[places, channels] - mean.astype(jnp.float32) * LATENT.step
        symbols.append(jnp.floor(value + 0.5).astype(jnp.int32))
        rows.append(row)
        return symbols[-1]

    return _walk(design, integers, z, visit), symbols, rows


def analyse(design: Design, frozen: Frozen, samples: UInt8[np.ndarray, "h w 3"], step: int):
    """What to write for an image at a step in 1/16."""
    height, width = samples.shape[:2]
    rows, columns = padded_shape(height, width)
    samples = np.pad(samples, ((0, rows - height), (0, columns - width), (0, 0)), mode="edge")
    y, z = _analyse(design, frozen.analysis, frozen.prior, samples, np.float32(step / 16))
    latents, symbols, rows = jax.device_get(_choose(design, frozen.prior_integers, y, z))
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
    return [k for k in range(len(design.slices)) for _ in range(1 + (k < design.two_passes))]


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
    column = symbols - np.asarray(tables.offset)[rows]
    last = tables.entries.shape[1] - 1
    outside = (column < 0) | (column >= last)
    frequency = (np.asarray(tables.entries)[rows, np.where(outside, last, column)] >> 16) + 1.0
    # What lies outside follows as an exponential Golomb code of about twice its distance.
    beyond = np.where(column < 0, -column, column - last)[outside]
    codes = 2 * np.floor(np.log2(2.0 * beyond + 2)) + 1
    return float((tables.precision - np.log2(frequency)).sum() + codes.sum())


def _side_rows(shape):
    return np.broadcast_to(np.arange(shape[-1], dtype=np.int32), shape)


def write(design: Design, frozen: Frozen, choices: Choices, step: int) -> bytes:
    """Section "data"."""
    slices = _slice_of_groups(design)
    nothing = np.zeros(0, np.int32)
    parts = {key: ([nothing], [nothing]) for key in (False, True)}
    for k, symbols, rows in zip(slices, choices.symbols, choices.rows, strict=True):
        for into, array in zip(parts[k < WIDE_SLICES], (symbols, rows), strict=True):
            into.append(array.ravel())
    narrow, wide = ([np.concatenate(x) for x in parts[key]] for key in (False, True))
    room = len(narrow[0]) + len(wide[0])
    stream = coding.encode(frozen.narrow, *narrow, lanes=LANES, capacity=room)
    escapes = np.pad(np.asarray(stream.escapes), (0, room - len(stream.escapes)))
    stream = coding.push(stream._replace(escapes=escapes), frozen.wide, *wide)
    side = coding.encode(frozen.side, choices.side, _side_rows(choices.side.shape))
    side = coding.to_bytes(side)
    flags = _pack_flags(choices.active)
    head = struct.pack("<HHI", step, len(flags), len(side))
    return head + flags + side + coding.to_bytes(stream)


def _pack_flags(active):
    values, lengths = run_length.run_length_encode(active)
    k = universal.best_exponential_golomb(lengths - 1)
    runs = universal.exponential_golomb_encode(lengths - 1, k)
    return bytes([int(values[0]), k, len(lengths) & 255, len(lengths) >> 8]) + runs


def _unpack_flags(data, count):
    if len(data) < 4 or data[0] > 1 or data[1] > 31:
        raise CorruptStream(f"expected flags of {count} channels, got {data[:4].hex()}")
    runs = data[2] | data[3] << 8
    lengths, used = universal.exponential_golomb_decode(data[4:], runs, data[1])
    if used != len(data) - 4:
        raise CorruptStream(f"expected {used} bytes of flags, got {len(data) - 4}")
    values = (np.arange(runs) + data[0]) % 2 == 1
    return run_length.run_length_decode(values, lengths.astype(np.int64) + 1, count=count)


@functools.partial(jax.jit, static_argnums=0)
def _read(design, integers, tables, stream, z, active):
    """(latents, whether the stream ended as it must)."""
    state = [stream]

    def visit(k, places, channels, mean, row):
        index = jnp.where(active[channels], row, CERTAIN)
        symbols, state[0] = coding.pop(state[0], tables[k >= WIDE_SLICES], index)
        return symbols

    latents = _walk(design, integers, z, visit)
    return latents, coding.is_finished(state[0])


@functools.partial(jax.jit, static_argnums=0)
def paint(
    design: Design, integers: Any, latents: Int[Array, "b h w c"], step: Int32[Array, ""]
) -> UInt8[Array, "b height width 3"]:
    """The samples of latents: integers all the way."""
    planes = networks(design).synthesis.apply(integers, latents)
    planes = jnp.moveaxis(scale_planes(planes, step), -1, 1)
    return jnp.moveaxis(to_samples(planes), 1, -1).astype(jnp.uint8)


def read(design: Design, frozen: Frozen, data: bytes, shape: tuple[int, int]):
    """(latents, step in 1/16) of section "data". Raises CorruptStream."""
    if len(data) < 8:
        raise CorruptStream(f"expected at least 8 bytes of data, got {len(data)}")
    step, flags, side = struct.unpack_from("<HHI", data)
    if not MIN_STEP <= step <= MAX_STEP:
        raise CorruptStream(f"expected a step of {MIN_STEP} to {MAX_STEP}, got {step}")
    height, width = (n // 16 for n in padded_shape(*shape))
    channels = sum(design.slices)
    room = height * width * channels
    active = _unpack_flags(data[8 : 8 + flags], channels)
    side_shape = (1, height // 4, width // 4, design.side)
    rows = _side_rows(side_shape)
    packed, rest = data[8 + flags : 8 + flags + side], data[8 + flags + side :]
    z = coding.decode(frozen.side, coding.from_bytes(packed, max_escapes=rows.size), rows)
    stream = read_message(rest, lanes=LANES, words=room, escapes=room)
    z = np.clip(z, SIDE.low, SIDE.high)
    latents, finished = _read(
        design, frozen.prior_integers, (frozen.wide, frozen.narrow), stream, z, active
    )
    if not finished:
        raise CorruptStream(
            "expected the latents to end where an encoder began; the file is damaged, or was "
            "written with other weights"
        )
    return latents, step


def latent_codec(design: Design) -> Codec:
    """The codec of a design.

    init(key) gives floats to train; apply(params, images, key=, quality=) is what training sees;
    encode and decode take those, or what freeze made of them once.
    """

    def frozen(params):
        return params if isinstance(params, Frozen) else freeze(design, params)

    def choose(params, image, quality, bpp):
        colour = to_colour(image, design.name)

        def size(step):
            return bits(design, params, analyse(design, params, colour, step))

        pixels = colour.shape[0] * colour.shape[1]
        step = find_step(size, quality, bpp, pixels=pixels, overhead_bits=OVERHEAD_BITS)
        return step, analyse(design, params, colour, step)

    def apply(params, image, *, key=None, quality=None, bpp=None):
        if key is not None:
            return train(design, params, image, key, quality)
        params, image = frozen(params), np.asarray(image)
        step, choices = choose(params, image, quality, bpp)
        samples = paint(design, params.synthesis_integers, choices.latents, np.int32(step))
        return _crop(np.asarray(samples), image.shape), bits(design, params, choices)

    def encode(params, image, *, quality=None, bpp=None):
        params, image = frozen(params), np.asarray(image)
        step, choices = choose(params, image, quality, bpp)
        data = write(design, params, choices, step)
        return Payload({"shape": list(image.shape)}, {"data": data})

    def decode(params, payload):
        params, shape = frozen(params), read_shape(payload.header)
        data = payload.sections.get("data", b"")
        latents, step = read(design, params, data, shape[:2])
        samples = paint(design, params.synthesis_integers, latents, np.int32(step))
        return _crop(np.asarray(samples), shape)

    return Codec(functools.partial(init, design), apply, encode, decode, design.name)


def _crop(samples, shape):
    return from_colour(np.ascontiguousarray(samples[0, : shape[0], : shape[1]]), shape)
