"""One chunk of an array of floats <-> bytes, with an error that no value exceeds.

    u8   7 bounded     (kinds 0 to 6, without loss, are tensor_chunk.py's)
    u8   grid          0 uniform, 1 logarithmic, 2 bits (error_bound_grid.py), 3 interpolated
                       (interpolation.py), 4 levels of a finer logarithmic grid interpolated
    u8   axes          of which differences are taken: 1 the last, 2 the one before, 4 the others;
                       of grid 4 which fineness; 8 where tokens are LZMA (lempel_ziv.py)
    u32  width, height: values along the last axis, and along the one before
    f64  step, or rho
    f64  giant, or the fineness
    i64  levels in a period, or the step of bits
    u8   octaves in a period
    i64  middle        subtracted from levels where no differences are taken; else from the first
    i64  zero          the level that means 0, of grids 1 and 2; the step of levels of grid 4
    then five times u32 length and
         tokens        a chunk of u8: levels after differences (magnitude_tokens.py)
         below         the bits below tokens, as they are
         signs         a chunk of packed bits, of grids 1, 2 and 4
         mask          a chunk of packed bits: values that are kept exactly
         exact         a chunk of these values

Levels first, differences of them then: integers, exact in any order, so one pass decodes them.
(The Lorenzo predictor of SZ, Ibarria et al. 2003, on levels as cuSZ has it, Tian et al. 2020.)

The encoder decodes what it wrote, with the same arithmetic, and keeps exactly what is not within
the bound: what rounding to the dtype pushed over it, NaN, infinities. Where a chunk without loss
is smaller it is written instead.
"""

import struct
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.coding.error_bound_grid import (
    LARGEST_LEVEL,
    LARGEST_STEP,
    MOST_LEVELS,
    MOST_PERIOD,
    Logarithmic,
    logarithmic,
    stride,
    within_absolute,
    within_relative,
)
from jaxcomp.coding.interpolation import decode as decode_interpolated
from jaxcomp.coding.interpolation import encode as encode_interpolated
from jaxcomp.coding.lempel_ziv import pack, unpack
from jaxcomp.coding.magnitude_tokens import from_tokens, to_tokens, token_bits
from jaxcomp.coding.tensor_chunk import BOUNDED, decode_chunk, encode_chunk

UNIFORM, LOGARITHMIC, BITS, INTERPOLATED, BETWEEN = range(5)
FINENESS = 1.0, 1.25  # of coarse strides, which are tried
FINER = 16  # levels of grid 4 in one of grid 1: predictions are rounded to them
HEADER = struct.Struct("<BBBIIddqBqq")
LENGTH = struct.Struct("<I")
SAMPLE = 1 << 15  # values that choose the axes: blocks of neighbours
SIGNED = LOGARITHMIC, BITS, BETWEEN
FLOATS = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}  # bits of mantissa
AXES, PACKED = 7, 8
LEAST_PACKED = 4096  # tokens: fewer hardly repeat


class Header(NamedTuple):
    """What HEADER packs."""

    kind: int
    grid: int
    axes: int
    width: int
    height: int
    step: float
    giant: float
    count: int
    period: int
    middle: int
    zero: int


class Coded(NamedTuple):
    """The bytes, and the largest |x - x_hat|, by |x| where the bound is relative."""

    data: bytes
    error: float


def encode_bounded(
    x: np.ndarray, bound: float, *, relative: bool = False, base: np.ndarray | None = None
) -> Coded:
    """x [..., height, width] -> bytes from which every value returns within the bound.

    |x - x_hat| <= bound, or bound |x|, exactly. NaN and infinities return as they are, and so do
    zeros where relative. float16, bfloat16, float32 and float64; raises UnsupportedInput.
    base: as for encode_chunk, which may be smaller.
    """
    if x.dtype.name not in FLOATS:
        raise UnsupportedInput(f"expected one of {', '.join(FLOATS)}, got {x.dtype}; leave it out")
    if not bound >= 0 or bound == np.inf:
        raise UnsupportedInput(f"expected a bound of 0 or more, got {bound}")
    if relative and bound >= 1:
        raise UnsupportedInput(f"expected a relative bound below 1, got {bound}; lower it")
    exact = encode_chunk(x, base=base)
    if not bound or not x.size:
        return Coded(exact, 0.0)
    coded = _encode(x, bound, relative)
    return coded if len(coded.data) < len(exact) else Coded(exact, 0.0)


def estimated_bits(x: np.ndarray, bound: float, *, relative: bool = False) -> float:
    """About the bits that encode_bounded takes for x, without tables; nothing is coded."""
    flat = np.ascontiguousarray(x).reshape(-1)
    raw = 8.0 * flat.nbytes
    if not bound or not flat.size:
        return raw
    header, levels, good, _, signs, _ = _quantized(x, flat, bound, relative)
    levels = _held(levels, good).reshape(-1, header.height, header.width)
    axes = _best_axes(levels)
    bits = token_bits(_differences(levels, axes, _middle(levels, axes)))
    negative = 0 if signs is None else np.count_nonzero(signs) / flat.size
    bits += flat.size * (_binary_entropy(negative) + _binary_entropy(1 - good.mean()))
    return min(raw, bits + np.count_nonzero(~good) * 8 * flat.itemsize)


def decode_any(
    data: bytes | memoryview,
    dtype: Any,
    count: int,
    *,
    base: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """decode_chunk, for chunks of encode_bounded too."""
    if not len(data) or data[0] != BOUNDED:
        return decode_chunk(data, dtype, count, base=base, out=out)
    dtype = np.dtype(dtype)
    if dtype.name not in FLOATS or len(data) < HEADER.size:
        raise CorruptStream(f"expected a chunk of {dtype}, got one of floats with a bound")
    header, body, parts = Header(*HEADER.unpack_from(data)), memoryview(data)[HEADER.size :], []
    for _ in range(5):
        size = LENGTH.unpack_from(body)[0] if len(body) >= LENGTH.size else 1 << 62
        if size > len(body) - LENGTH.size:
            raise CorruptStream(f"expected {size} bytes of a chunk, got {len(body)}; truncated?")
        parts.append(body[LENGTH.size :][:size])
        body = body[LENGTH.size + size :]
    _, grid, axes, width, height, *_ = header
    if len(body) or grid > BETWEEN or axes > AXES + PACKED or not width or not height:
        raise CorruptStream("expected the header of a chunk with a bound, got another; damaged?")
    if count % (width * height):
        raise CorruptStream(f"expected rows of {count} values, got {height} x {width}")
    packed = axes & PACKED
    tokens = unpack(parts[0], count) if packed else decode_chunk(parts[0], np.uint8, count)
    levels = from_tokens(tokens, parts[1])
    if grid < INTERPOLATED:
        levels = _sums(levels.reshape(-1, height, width), axes, header.middle)
    there = _unpacked(parts[3], count)
    exact = decode_chunk(parts[4], dtype, int(np.count_nonzero(there)))
    signs = _unpacked(parts[2], count) if grid in SIGNED else None
    if signs is None and len(parts[2]):
        raise CorruptStream("expected no signs, got some; damaged?")
    values = _values(levels, header, signs, dtype)
    values[there] = exact
    if out is None:
        return values
    if out.dtype != dtype or out.shape != (count,):
        raise UnsupportedInput(f"expected out to be flat, of {count} {dtype}; got {out.shape}")
    out[:] = values
    return out


def _encode(x, bound, relative):
    flat = np.ascontiguousarray(x).reshape(-1)
    header, levels, good, values, signs, wide = _quantized(x, flat, bound, relative)
    levels = _held(levels, good).reshape(-1, header.height, header.width)
    axes = _best_axes(levels)
    header = header._replace(axes=axes, middle=_middle(levels, axes))
    symbols = _differences(levels, axes, header.middle)
    if axes and not relative:  # smooth
        header, symbols, good, values = _smoothest(flat, wide, bound, header, symbols, good, values)
    if axes and header.grid == LOGARITHMIC:
        found = header, symbols, good, values
        header, symbols, good, values = _between(flat, wide, bound, signs, found)
    tokens, below = to_tokens(symbols)
    coded = encode_chunk(tokens.reshape(-1, header.width))
    if (axes or len(coded) < tokens.size / 8) and tokens.size >= LEAST_PACKED:
        packed = pack(tokens)
        if len(packed) < len(coded):
            coded, header = packed, header._replace(axes=header.axes | PACKED)
    parts = [
        coded,
        b"".join(below),
        encode_chunk(np.packbits(signs)) if relative else b"",
        encode_chunk(np.packbits(~good)),
        encode_chunk(flat[~good]),
    ]
    framed = b"".join(LENGTH.pack(len(part)) + part for part in parts)
    with np.errstate(all="ignore"):
        error = np.where(good, np.abs(wide - values.astype(np.float64)), 0)
        if relative:
            error = np.where(error > 0, error / np.abs(wide), 0)
    return Coded(HEADER.pack(*header) + framed, float(error.max()))


def _quantized(x, flat, bound, relative):
    """(header, levels, which of them hold the bound, values, signs, x in float64)."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        wide = flat.astype(np.float64)
    width, height = _row(x.shape)
    grid, *steps = _grid(bound, relative, flat.dtype)
    header = Header(BOUNDED, grid, 0, width, height, *steps, 0, 0)
    with np.errstate(all="ignore"):
        levels, good, zero = _levels(wide, flat, header, bound)
        header = header._replace(zero=zero)
        signs = np.signbit(wide) if relative else None
        values = _values(levels, header, signs, flat.dtype)
        within = within_relative if relative else within_absolute
        good &= within(wide, values.astype(np.float64), bound)
    return header, levels, good, values, signs, wide


def _smoothest(flat, wide, bound, header, symbols, good, values):
    """Header, symbols, good and values of what takes the fewest bits: these, or interpolated."""
    exact = 8.0 * flat.itemsize
    least = token_bits(symbols) + exact * np.count_nonzero(~good)
    best = header, symbols, good, values
    first = float(header.middle) * header.step
    field = wide.reshape(-1, header.height, header.width)
    for fineness in FINENESS:
        with np.errstate(all="ignore"):
            k, y = encode_interpolated(field, first, header.step, fineness)
            made = y.reshape(-1).astype(flat.dtype)
            holds = within_absolute(wide, made.astype(np.float64), bound) & np.isfinite(wide)
        bits = token_bits(k) + exact * np.count_nonzero(~holds)
        if bits < least:
            said = header._replace(grid=INTERPOLATED, axes=0, giant=fineness)
            least, best = bits, (said, k, holds, made)
    return best


def _between(flat, wide, bound, signs, found):
    """The same of levels: of a finer grid, each interpolated to within half a level of found."""
    header, symbols, good, _ = found
    count, exact = header.count * FINER, 8.0 * flat.itemsize
    if count > MOST_LEVELS:
        return found
    each = count / header.period  # levels in an octave
    high, low = np.log2(1 + bound), np.log2(1 - bound)
    least = token_bits(symbols) + exact * np.count_nonzero(~good)
    rho, giant = 2.0 ** (1 / each), 2.0 ** (stride(count) / each)
    with np.errstate(all="ignore"):
        field = (np.log2(np.abs(wide)) + (high + low) / 2) * each
    there = np.isfinite(field)  # zeros are kept exactly
    first, step = np.floor([field[there][0] if there.any() else 0, (high - low) * each]).tolist()
    said = header._replace(grid=BETWEEN, step=rho, giant=giant, count=count)
    said = said._replace(middle=int(first), zero=int(step))
    field = field.reshape(-1, header.height, header.width)
    for index, fineness in enumerate(FINENESS):
        with np.errstate(all="ignore"):
            k, y = encode_interpolated(field, first, step, fineness, whole=True)
            made = _powers_of(said).values(y.reshape(-1).astype(np.int64)).astype(flat.dtype)
            made = np.where(signs, -made, made)
            holds = within_relative(wide, made.astype(np.float64), bound) & there
        bits = token_bits(k) + exact * np.count_nonzero(~holds)
        if bits < least:
            least, found = bits, (said._replace(axes=index), k, holds, made)
    return found


def _grid(bound, relative, dtype):
    """(grid, step or rho, giant, levels in a period or step of bits, octaves in a period)."""
    if not relative:
        return UNIFORM, min(2 * bound, LARGEST_STEP), 0.0, 0, 0
    if (found := logarithmic(bound)) is not None:
        return LOGARITHMIC, found.rho, found.giant, found.count, found.period
    return BITS, 0.0, 0.0, max(1, int(2 * bound * 2.0 ** FLOATS[dtype.name])), 0


def _levels(wide, flat, header, bound):
    """(levels, which have one, the level of zero)."""
    if header.grid == UNIFORM:
        level = np.rint(wide / header.step)
        good = np.abs(level) <= LARGEST_LEVEL  # False for NaN
        return np.where(good, level, 0).astype(np.int64), good, 0
    magnitude, good = np.abs(wide), np.isfinite(wide)
    there = good & (magnitude > 0)
    if header.grid == LOGARITHMIC:
        safe = np.where(there, magnitude, 1.0)
        level = _powers_of(header).levels(safe, bound).astype(np.int64)
    else:
        bits = np.abs(flat).view(f"u{flat.itemsize}").astype(np.int64)
        level = (bits + header.count // 2) // header.count
    zero = int(level[there].min()) - 1 if there.any() else 0
    return np.where(there, level, zero), good, zero


def _values(levels, header, signs, dtype):
    """Flat values of levels: what a decoder makes, and an encoder checks."""
    with np.errstate(all="ignore"):
        if header.grid == INTERPOLATED:
            if not 1 <= header.giant <= FINENESS[-1]:
                raise CorruptStream("expected an interpolated field, got another; damaged?")
            shape = levels.size // (header.height * header.width), header.height, header.width
            first = float(header.middle) * header.step
            y = decode_interpolated(levels, shape, first, header.step, header.giant)
            return y.reshape(-1).astype(dtype)
        if header.grid == BETWEEN:
            index = header.axes & AXES
            if index >= len(FINENESS) or not 1 <= header.zero <= 1 << 32:
                raise CorruptStream("expected interpolated levels, got others; damaged?")
            shape = levels.size // (header.height * header.width), header.height, header.width
            steps = float(header.middle), float(header.zero), FINENESS[index]
            y = decode_interpolated(levels, shape, *steps, whole=True).reshape(-1)
            values = _powers_of(header).values(y.astype(np.int64)).astype(dtype)
            return np.where(signs, -values, values)
        if header.grid == UNIFORM:
            return (levels * header.step).astype(dtype)
        if header.grid == LOGARITHMIC:
            values = _powers_of(header).values(levels).astype(dtype)
        else:
            values = (levels * header.count).astype(f"u{dtype.itemsize}").view(dtype)
        values = np.where(levels == header.zero, np.zeros((), dtype), values)
        return np.where(signs, -values, values)


def _powers_of(header):
    good = 0 < header.count <= MOST_LEVELS and 0 < header.period <= MOST_PERIOD
    if not good or not all(1 <= base <= 2.0**MOST_PERIOD for base in header[5:7]):
        raise CorruptStream("expected a grid of powers, got another; damaged?")
    return Logarithmic(header.count, header.period, header.step, header.giant)


def _row(shape):
    """(width, height) of the two last axes that are longer than 1."""
    shape = [n for n in shape if n > 1]
    return [*shape[::-1], 1, 1][:2]


def _held(levels, good):
    """Levels, with that of the good value before it where one is not good."""
    if good.all():
        return levels
    last = np.maximum.accumulate(np.where(good, np.arange(levels.size), -1))
    first = levels[good][0] if good.any() else 0
    return np.where(last >= 0, levels[last], first)


def _middle(levels, axes):
    """What is subtracted first: so that levels, or the first of them, are small."""
    flat = levels.reshape(-1)
    return int(flat[0] if axes else np.median(flat[:: max(1, flat.size // SAMPLE)]))


def _binary_entropy(p):
    return float(-p * np.log2(p) - (1 - p) * np.log2(1 - p)) if 0 < p < 1 else 0.0


def _differences(levels, axes, middle):
    """i64, flat; they wrap around."""
    levels = levels - middle
    for axis in range(3):
        if axes >> axis & 1:
            levels = np.diff(levels, axis=2 - axis, prepend=0)
    return levels.reshape(-1)


def _sums(levels, axes, middle):
    """The inverse of _differences."""
    for axis in range(3):
        if axes >> axis & 1:
            levels = np.cumsum(levels, axis=2 - axis)
    return levels.reshape(-1) + middle


def _best_axes(levels):
    """The axes of which differences take the fewest bits, in a block from the middle."""
    n, height, width = levels.shape
    tall, wide = min(height, 64), min(width, 512)
    deep = min(n, max(1, SAMPLE // (tall * wide)))
    at = [(n - deep) // 2, (height - tall) // 2, (width - wide) // 2]
    block = levels[at[0] :, at[1] :, at[2] :][:deep, :tall, :wide]

    def cost(axes):
        found = block
        for axis in range(3):
            if axes >> axis & 1:
                found = np.diff(found, axis=2 - axis)
        return token_bits(found - (0 if axes else int(np.median(found)))) / found.size

    possible = [
        a
        for a in range(AXES + 1)
        if all(block.shape[2 - i] > 1 or not a >> i & 1 for i in range(3))
    ]
    return min(possible, key=cost)


def _unpacked(data, count):
    packed = decode_chunk(data, np.uint8, -(-count // 8))
    return np.unpackbits(packed, count=count).view(bool)
