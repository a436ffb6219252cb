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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from jaxcomp import coding
from jaxcomp.base import Codec, CorruptStream, Payload
from jaxcomp.coding import run_length, universal
from jaxcomp.nets import gain

from .dct_transform import to_samples
from .latent_codec import GAIN_BITS, UNIT, Design, init, networks, train
from .latent_frozen import CERTAIN, WIDE_SLICES, Frozen, freeze
from .latent_prior import LATENT, SIDE, lattice, level_of, restore
from .latent_rounding import SILENT_ROWS, decide
from .latent_transforms import scale_planes, to_planes
from .message import read_message
from .quality import MAX_STEP, MIN_STEP, RATE_WEIGHT, find_step
from .samples import from_colour, read_shape, to_colour

LANES = 16  # a lane costs about 20 bits
OVERHEAD_BITS = 8 * (90 + 3 * LANES)  # what a file takes beside its symbols


def padded_shape(height: int, width: int) -> tuple[int, int]:
    """The sides of an image as networks see it: multiples of UNIT."""
    return -(-height // UNIT) * UNIT, -(-width // UNIT) * UNIT


@functools.partial(jax.jit, static_argnums=0)
def _analyse(design, analysis, prior, inverse_gains, samples, step):
    """Latents in units of their steps, the squared size of those steps, and side information."""
    nets = networks(design)
    planes = to_planes(samples[None].astype(jnp.float32))
    scale = (1 << GAIN_BITS) / inverse_gains[level_of(step)].astype(jnp.float32)
    y = scale * nets.analysis.apply(analysis, planes, step[None] / 16.0)
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


def analyse(design: Design, frozen: Frozen, samples: UInt8[np.ndarray, "h w 3"], step: int):
    """What to write for an image at a step in 1/16."""
    height, width = samples.shape[:2]
    rows, columns = padded_shape(height, width)
    samples = np.pad(samples, ((0, rows - height), (0, columns - width), (0, 0)), mode="edge")
    encoder = frozen.analysis, frozen.prior, frozen.inverse_gains
    y, weight, z = _analyse(design, *encoder, samples, np.int32(step))
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
def _read(design, integers, tables, stream, z, step, active):
    """(latents, whether the stream ended as it must)."""
    state = [stream]

    def visit(k, places, channels, mean, row):
        index = jnp.where(active[channels] & (row >= SILENT_ROWS), row, CERTAIN)
        symbols, state[0] = coding.pop(state[0], tables[k >= WIDE_SLICES], index)
        return symbols

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
        design,
        frozen.prior_integers,
        (frozen.wide, frozen.narrow),
        stream,
        z,
        np.int32(step),
        active,
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
        samples = paint(design, params, choices.latents, step)
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
        samples = paint(design, params, latents, step)
        return _crop(np.asarray(samples), shape)

    return Codec(functools.partial(init, design), apply, encode, decode, design.name)


def _crop(samples, shape):
    return from_colour(np.ascontiguousarray(samples[0, : shape[0], : shape[1]]), shape)
