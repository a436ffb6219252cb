"""One chunk of an array <-> bytes, bit for bit, near the entropy of its exponents.

    u8   0 raw       the values, little-endian
         1 constant  one value
         2 planes    a plane for each byte of a value, highest first: u32 length, then what
                     coding/byte_plane.py writes; before planes: u8, how values became integers
         3 sparse    u32 length, a chunk of the mask of values whose bits are not all zero, as
                     packed bits; then a chunk of those values
         4 bits      a chunk of the packed bits of booleans
         5 xor       a chunk of value ^ base, as unsigned integers
         6 subtract  a chunk of value - base, as unsigned integers: zigzag of the difference of
                     their ranks among all floats, or of the integers

Floats are rotated left by a bit: sign last. Then the first byte of bfloat16 and float32 is the
exponent, 2.5 bits of 8 for weights near a Gaussian, and all that follows is noise, stored as it
is. For float16 and float64 the first byte holds most of the exponent. Nothing is assumed: each
plane is raw where a sample says that it would not shrink. Complex numbers are two floats each;
values below a byte (int4, float4) and float8 are coded as the byte that holds them.

What was measured and is left out: the mantissa's first bit with the exponent would save 0.06 bits
of a weight, at twice the time; differences cut elsewhere than at bytes 0.05 bits at most.
Of consecutive steps of Adam, subtraction leaves 0.3 to 1.3 bits less than xor.

Integers as they are, or zigzag where the sample says so. The chunk holds neither type nor
count, and no checksum: a file does. What decoding allocates is bounded by the count.
"""

import struct
from typing import Any

import numpy as np

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.coding.byte_plane import carried, is_raw, length, read_plane, spread, write_plane

RAW, CONSTANT, PLANES, SPARSE, BITS, XOR, SUBTRACT, BOUNDED = range(8)
NAMES = "raw", "constant", "planes", "sparse", "bits", "delta xor", "delta subtract", "bounded"
AS_IS, ROTATED, ZIGZAG = range(3)
LENGTH = struct.Struct("<I")
BLOCK = 1 << 16  # values that stay in the second cache from pass to pass
SAMPLE = 1 << 13  # values that tell which way is smallest
LEAST = 64  # values
LEAST_ROWS, LOOKED_AT = 16, 48  # rows that tell whether columns differ
SOME = 1 << 11  # values that tell how many are 0
MOST = 1 - 1 / 64  # of the raw size: a chunk that saves less is stored
FLAT = 0, None  # values in a row, rows of arrays: of what are no rows
DEEPEST = 3  # a chunk in a chunk: a difference, that is sparse, with a mask


def encode_chunk(
    x: np.ndarray, *, base: np.ndarray | None = None, groups: np.ndarray | None = None
) -> bytes:
    """x of any shape and type of numbers -> bytes. base: another array of its type and size.

    Rows of x, along its last axis, and columns may get tables of their own where they differ in
    scale: pass a chunk as whole rows of a matrix. groups: rows of each of several arrays that x
    is made of, which may have tables of their own. Raises UnsupportedInput.
    """
    values = as_integers(x)
    rows = _width(x, values.size), groups
    float_ = _is_float(x.dtype)
    if base is None or not values.size:
        return b"".join(_encode(values, rows, float_, bool_=x.dtype == np.bool_))
    if base.dtype != x.dtype or base.size != x.size:
        raise UnsupportedInput(
            f"expected a base of {x.size} {x.dtype}, got {base.size} {base.dtype}; pass None"
        )
    parts = _encode_difference(values, as_integers(base), rows, float_, x.dtype == np.bool_)
    return b"".join(parts)


def decode_chunk(
    data: bytes | memoryview,
    dtype: Any,
    count: int,
    *,
    base: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The array of encode_chunk, flat; into `out`, a flat one of the type and size, if given.

    Raises CorruptStream for bytes that encode_chunk never makes, and for a base that is missing.
    """
    dtype = np.dtype(dtype)
    out = np.empty(count, dtype) if out is None else out
    if out.dtype != dtype or out.shape != (count,) or not out.flags.c_contiguous:
        raise UnsupportedInput(f"expected out to be flat, of {count} {dtype}; got {out.shape}")
    values = as_integers(out)
    integers = None if base is None else as_integers(base)
    if base is not None and (base.dtype != dtype or base.size != count):
        raise UnsupportedInput(f"expected a base of {count} {dtype}, got {base.size} {base.dtype}")
    _decode(memoryview(data), values, integers, _is_float(dtype), 0)
    return out


def chunk_kind(data: bytes | memoryview) -> str:
    """What a chunk is: "raw", "constant", "planes", "sparse", "delta xor", ..."""
    if not len(data) or data[0] >= len(NAMES):
        raise CorruptStream(f"expected a chunk of an array, got {bytes(data[:1])!r}")
    return NAMES[data[0]]


def gain_alone(x: np.ndarray) -> float:
    """About the share of its size that x loses in a chunk of its own and in none with others, seen
    in a sample: that of zeros; and of floats -log2 of what is left of the variance of exponents
    within columns, halved, in bits.
    """
    values = as_integers(x)
    some = values[:: max(1, values.size // SOME)]
    zeros = 1 - np.count_nonzero(some) / max(some.size, 1)
    width = _width(x, values.size) if _is_float(x.dtype) else 0
    if not width or values.size < LEAST_ROWS * width:
        return zeros
    rows = values.reshape(-1, width)
    some = _turn(rows[:: -(-len(rows) // LOOKED_AT)], ROTATED) >> 8 * values.itemsize - 8
    first = some.astype(np.float32)
    middle = first.mean()
    np.clip(first, middle - 16, middle + 16, out=first)  # zeros are far away
    by_chance = first.var(0).mean() / len(first)
    left = 1 - (first.mean(0).var() - by_chance) / (first.var() + 1e-9)
    return max(zeros, float(-np.log2(max(left, 1e-9)) / 2) / (8 * values.itemsize))


def as_integers(x: np.ndarray) -> np.ndarray:
    """The bits of x as flat unsigned integers; of complex numbers, of both parts."""
    size = x.dtype.itemsize // (2 if x.dtype.kind == "c" else 1)
    if x.dtype.hasobject or size not in (1, 2, 4, 8) or x.dtype.byteorder == ">":
        raise UnsupportedInput(f"expected little-endian numbers of 1 to 8 bytes, got {x.dtype}")
    return np.ascontiguousarray(x).reshape(-1).view(f"u{size}")


def _is_float(dtype):
    """Whether a sign comes first, then an exponent, in more than a byte."""
    return dtype.kind == "c" or (dtype.kind not in "iub" and dtype.itemsize > 1)


def _width(x, size):
    """Values in a row: of the last axis, or of all but the first where that is a kernel's."""
    if x.ndim < 2 or not size:
        return 0
    row = x.shape[-1] if x.shape[-1] >= 16 else x.size // x.shape[0]
    return row * (size // x.size)


def _encode(values, rows, float_, bool_=False):
    """Parts of bytes: they are joined once."""
    raw = [bytes([RAW]), values]
    if not values.size:
        return raw
    if (values[:BLOCK] == values[0]).all() and (values == values[0]).all():
        return [bytes([CONSTANT]), values[:1]]
    if values.size < LEAST:
        return raw
    if bool_ and values.max() <= 1:
        parts = [bytes([BITS]), *_encode(np.packbits(values), FLAT, False)]
        return parts if length(parts) <= values.size else raw
    if _zeros_pay(_sample(values)):
        parts = _encode_sparse(values, float_)
    else:
        parts = _encode_planes(values, rows, float_)
    return parts if length(parts) <= MOST * values.nbytes else raw


def _encode_planes(values, rows, float_):
    how = ROTATED if float_ else AS_IS
    if not float_ and values.itemsize > 1:
        sample = _sample(values)
        how = min((AS_IS, ZIGZAG), key=lambda how: _estimate(_turn(sample, how)))
    planes = np.empty((values.itemsize, values.size), np.uint8)
    for i in range(0, values.size, BLOCK):
        block = _turn(values[i : i + BLOCK], how)
        for plane, shift in zip(planes, _shifts(values.itemsize), strict=True):
            np.right_shift(block, shift, out=plane[i : i + BLOCK], casting="unsafe")
    parts = [bytes([PLANES, how])]
    *others, last = [write_plane(plane) for plane in planes[1:]] or [None]
    # What the first plane's heads can carry is cut from the last one, where that is raw.
    raw = last is not None and is_raw(last)
    width, groups = rows
    first = write_plane(planes[0], width, planes[-1] if raw else planes[-1][:0], groups)
    if raw:
        last[1] = last[1][carried(first) :]
    for coded in [first, *others, *[last] * (last is not None)]:
        parts += [LENGTH.pack(length(coded)), *coded]
    return parts


def _encode_sparse(values, float_):
    there = values != 0
    mask = _encode(np.packbits(there), FLAT, False)
    inner = _encode(values[there], FLAT, float_)
    return [bytes([SPARSE]), LENGTH.pack(length(mask)), *mask, *inner]


def _encode_difference(values, base, rows, float_, bool_):
    samples = _sample(values), _sample(base)
    estimates = {
        None: _estimate(_turn(samples[0], ROTATED if float_ else AS_IS)),
        XOR: _estimate(samples[0] ^ samples[1]),
        SUBTRACT: _estimate(_subtract(*samples, float_)),
    }
    kind = min(estimates, key=estimates.__getitem__)
    if kind is None:
        return _encode(values, rows, float_, bool_)
    whole = _subtract(values, base, float_) if kind == SUBTRACT else values ^ base
    return [bytes([kind]), *_encode(whole, rows, False)]


def _decode(data, values, base, float_, depth):
    """Into values. The bytes of a chunk are all used, or CorruptStream is raised."""
    kind, body = NAMES.index(chunk_kind(data)), data[1:]
    if depth > DEEPEST or kind == BOUNDED:  # which coding/bounded_chunk.py decodes
        raise CorruptStream("expected a chunk, got chunks in chunks; damaged?")
    size = values.size * values.itemsize
    if kind in (RAW, CONSTANT):
        expected = size if kind == RAW else values.itemsize
        if len(body) != expected or (kind == CONSTANT and not size):
            raise CorruptStream(f"expected a chunk of {expected} bytes, got {len(body)}")
        values[...] = np.frombuffer(body, values.dtype)
    elif kind == PLANES:
        _decode_planes(body, values)
    elif kind == SPARSE:
        mask, inner = _cut(body)
        packed = np.empty(-(-values.size // 8), np.uint8)
        _decode(mask, packed, None, False, depth + 1)
        there = np.unpackbits(packed, count=values.size).view(bool)
        some = np.empty(np.count_nonzero(there), values.dtype)
        _decode(inner, some, None, float_, depth + 1)
        values[...] = 0
        values[there] = some
    elif kind == BITS:
        if values.itemsize > 1:
            raise CorruptStream("expected values of more than a bit, got booleans")
        packed = np.empty(-(-values.size // 8), np.uint8)
        _decode(body, packed, None, False, depth + 1)
        values[...] = np.unpackbits(packed, count=values.size)
    else:
        if base is None:
            raise CorruptStream("expected values, got a difference; pass the base it was made with")
        # The base may be what is written over.
        whole = np.empty_like(values)
        _decode(body, whole, None, False, depth + 1)
        values[...] = _add(whole, base, float_) if kind == SUBTRACT else whole ^ base


def _decode_planes(body, values):
    how = body[0] if len(body) else -1
    if how not in (AS_IS, ROTATED, ZIGZAG):
        raise CorruptStream(f"expected how planes were made, 0 to 2, got {how}")
    coded, body = _cut(body[1:])
    first, cargo = read_plane(coded, values.size)
    planes, more = [first], cargo.size
    if more > values.size:
        raise CorruptStream(f"expected heads that carry at most {values.size} bytes, got {more}")
    for i in range(1, values.itemsize):
        coded, body = _cut(body)
        ahead = cargo.size if i == values.itemsize - 1 else 0
        plane, none = read_plane(coded, values.size - ahead)
        more += none.size - ahead
        planes.append(plane)
    if len(body) or more:
        raise CorruptStream(f"expected the last plane to end the chunk, got {len(body)} bytes more")
    for i in range(0, values.size, BLOCK):
        block = values[i : i + BLOCK]
        for k, plane in enumerate(planes):
            ahead = cargo if 0 < k == values.itemsize - 1 else cargo[:0]
            part = _behind(ahead, plane, i, block.size)
            if k:
                # Twice as fast as storing every second byte.
                np.left_shift(block, 8, out=block)
                np.bitwise_or(block, part.astype(block.dtype), out=block)
            else:
                block[...] = part
        if how:
            _turn_back(block, how)


def _behind(cargo, plane, i, count):
    """Bytes i to i + count of cargo and then a plane, u8[1] where that is constant."""
    rest = max(i - cargo.size, 0)
    rest = plane if plane.size == 1 else plane[rest : max(i + count - cargo.size, 0)]
    if i >= cargo.size:
        return rest
    head = cargo[i : i + count]
    if plane.size == 1:
        rest = np.broadcast_to(plane, count - head.size)
    return np.concatenate([head, rest])


def _shifts(itemsize):
    """Of the bytes of a value, highest first."""
    return range(8 * itemsize - 8, -1, -8)


def _cut(body):
    """(what a length announces, the rest)."""
    size = LENGTH.unpack_from(body)[0] if len(body) >= LENGTH.size else 1 << 62
    if size > len(body) - LENGTH.size:
        raise CorruptStream(f"expected {size} bytes of a plane, got {len(body)}; truncated?")
    return body[LENGTH.size :][:size], body[LENGTH.size + size :]


def _turn(v, how):
    top = 8 * v.itemsize - 1
    if how == ROTATED:
        return v << 1 | v >> top
    if how == ZIGZAG:
        return v << 1 ^ (v.view(f"i{v.itemsize}") >> top).view(v.dtype)
    return v


def _turn_back(v, how):
    """The inverse of _turn, in place."""
    if how == ROTATED:
        low = v >> 1
        np.left_shift(v, 8 * v.itemsize - 1, out=v)
        np.bitwise_or(v, low, out=v)
    else:
        sign = -(v.view(f"i{v.itemsize}") & 1)
        np.right_shift(v, 1, out=v)
        np.bitwise_xor(v, sign.view(v.dtype), out=v)


def _order(v):
    """Floats as integers in their order, modulo 2**bits: negative ones by their complement."""
    sign = (v.view(f"i{v.itemsize}") >> 8 * v.itemsize - 1).view(v.dtype)
    return v ^ (sign >> 1), sign


def _subtract(v, base, float_):
    if float_:
        v, base = _order(v)[0], _order(base)[0]
    return _turn(v - base, ZIGZAG)


def _add(whole, base, float_):
    _turn_back(whole, ZIGZAG)
    if not float_:
        return whole + base
    return _order(whole + _order(base)[0])[0]  # its own inverse


def _sample(values):
    """Some blocks of 64."""
    if values.size <= 2 * SAMPLE:
        return values
    return spread(values, values.size // 64, SAMPLE // 64)


def _estimate(sample):
    """About the bits of a value: the entropy of the bytes, of nonzero ones if that is less."""
    zeros = 1 - np.count_nonzero(sample) / sample.size
    dense = _byte_entropy(sample)
    if zeros in (0, 1):
        return dense
    return min(dense, _binary_entropy(zeros) + (1 - zeros) * _byte_entropy(sample[sample != 0]))


def _zeros_pay(sample):
    zeros = 1 - np.count_nonzero(sample) / sample.size
    if not 0 < zeros < 1:
        return False
    rest = (1 - zeros) * _byte_entropy(sample[sample != 0])
    return _binary_entropy(zeros) + rest < 0.98 * _byte_entropy(sample)


def _binary_entropy(p):
    return float(-p * np.log2(p) - (1 - p) * np.log2(1 - p))


def _byte_entropy(sample):
    bits = 0.0
    for plane in sample.view(np.uint8).reshape(-1, sample.itemsize).T:
        count = np.bincount(plane, minlength=256)
        share = count[count > 0] / plane.size
        bits -= float((share * np.log2(share)).sum())
    return bits
