"""Integers of any size as bytes to entropy-code, and bits that are noise.

A token is a byte: sign, and magnitude as a float of two bits of mantissa; below 8 it is exact.

    |v| < 8      code = |v|
    |v| < 2**32  code = 8 + 4 (n - 3) + the two bits below the leading one, n = floor(log2 |v|);
                 the n - 2 bits below them are stored as they are
    token        2 code + (v < 0); 255 stands for any other v, of which 64 bits are stored

Tokens divide an octave by four: for a density that falls by exp(-a) over a token the bits below
waste a**2 / 24 nats, and a is at most a quarter of a Laplacian's scale where it matters.
"""

import numpy as np
from jaxtyping import Int64, UInt8

from jaxcomp.base import CorruptStream

DIRECT = 8  # magnitudes with a code of their own
LARGEST = 32  # bits of a magnitude with a code: with signs they fill 248 of 256
WIDE, WIDE_BITS = 255, 64
# Bits below the token.
EXTRA = [max(0, (token // 2 - DIRECT) // 4 + 1) for token in range(WIDE)]
EXTRA = np.array([*EXTRA, WIDE_BITS], np.uint8)
# The least magnitude of a token, and the sign.
_CODES = np.arange(WIDE) // 2
LEAST = np.where(_CODES < DIRECT, _CODES, (4 + _CODES % 4) << np.maximum(0, _CODES // 4 - 1))
LEAST = np.append(LEAST, 0)
SIGNS = np.append(1 - 2 * (np.arange(WIDE) % 2), 1)


def to_tokens(v: Int64[np.ndarray, " n"]) -> tuple[UInt8[np.ndarray, " n"], list[np.ndarray]]:
    """(tokens, u8 arrays that joined are the bits below)."""
    magnitude = np.abs(v)
    wide = (magnitude < 0) | (magnitude >> LARGEST > 0)
    # The exponent of a float64, which holds all of them exactly.
    n = (magnitude.astype(np.float64).view(np.int64) >> 52) - 1023
    n = np.clip(n, 3, LARGEST - 1)
    code = DIRECT + 4 * (n - 3) + (magnitude >> (n - 2) & 3)
    code = np.where(magnitude < DIRECT, magnitude, code)
    tokens = np.where(wide, WIDE, 2 * code + (v < 0)).astype(np.uint8)
    order, ends = _by_bits(tokens)
    below = np.where(wide, v, magnitude)[order].view(np.uint64)
    return tokens, [part for bits, a, b in ends for part in _pack(below[a:b], bits)]


def token_bits(v: Int64[np.ndarray, "..."]) -> float:
    """About the bits that v take: the entropy of the tokens, and the bits below."""
    tokens = to_tokens(v.reshape(-1))[0]
    count = np.bincount(tokens, minlength=256)
    share = count[count > 0]
    return float((share * np.log2(tokens.size / share)).sum() + (count * EXTRA).sum())


def from_tokens(tokens: UInt8[np.ndarray, " n"], data: memoryview) -> Int64[np.ndarray, " n"]:
    """The inverse. All of data is used, or CorruptStream is raised."""
    v = LEAST[tokens]
    order, ends = _by_bits(tokens)
    for bits, a, b in ends:
        size = _packed_nbytes(b - a, bits)
        if size > len(data):
            raise CorruptStream(f"expected {size} bytes below tokens, got {len(data)}; truncated?")
        v[order[a:b]] += _unpack(data[:size], b - a, bits).view(np.int64)
        data = data[size:]
    if len(data):
        raise CorruptStream(f"expected the bits below tokens to end, got {len(data)} bytes more")
    return v * SIGNS[tokens]


def _by_bits(tokens):
    """(places in the order of their bits below, [(bits, first, end)] of those that have some)."""
    extra = EXTRA[tokens]
    order = np.argsort(extra, kind="stable")
    count = np.bincount(extra, minlength=WIDE_BITS + 1)
    ends = np.cumsum(count)
    there = [int(bits) for bits in np.flatnonzero(count) if bits]
    return order, [(bits, int(ends[bits] - count[bits]), int(ends[bits])) for bits in there]


def _packed_nbytes(count, bits):
    return count * (bits // 8) + -(-count * (bits % 8) // 8)


def _pack(v, bits):
    """Low bytes as planes, then what is left of the bits, packed."""
    whole, rest = divmod(bits, 8)
    parts = [(v >> np.uint64(8 * i)).astype(np.uint8) for i in range(whole)]
    if rest:
        top = (v >> np.uint64(8 * whole)).astype(np.uint8)
        parts.append(np.packbits(np.unpackbits(top[:, None], axis=1)[:, 8 - rest :]))
    return parts


def _unpack(data, count, bits):
    whole, rest = divmod(bits, 8)
    data = np.frombuffer(data, np.uint8)
    v = np.zeros(count, np.uint64)
    for i in range(whole):
        v |= data[i * count : (i + 1) * count].astype(np.uint64) << np.uint64(8 * i)
    if rest:
        packed = np.unpackbits(data[whole * count :], count=count * rest).reshape(count, rest)
        top = np.packbits(np.pad(packed, ((0, 0), (8 - rest, 0))), axis=1)[:, 0]
        v |= top.astype(np.uint64) << np.uint64(8 * whole)
    return v
