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
EXTRA = np.array([max(0, (token // 2 - DIRECT) // 4 + 1) for token in range(WIDE)] + [WIDE_BITS])
# The least magnitude of a token.
_CODES = np.arange(WIDE) // 2
LEAST = np.where(_CODES < DIRECT, _CODES, (4 + _CODES % 4) << np.maximum(0, _CODES // 4 - 1))


def to_tokens(v: Int64[np.ndarray, " n"]) -> tuple[UInt8[np.ndarray, " n"], list[np.ndarray]]:
    """(tokens, u8 arrays that joined are the bits below)."""
    magnitude = np.abs(v)
    wide = (magnitude < 0) | (magnitude >> LARGEST > 0)
    # float64 holds 53 bits; frexp gives 0.5 <= f < 1.
    n = np.frexp(magnitude.astype(np.float64))[1].astype(np.int64) - 1
    n = np.clip(n, 3, LARGEST - 1)
    code = DIRECT + 4 * (n - 3) + (magnitude >> (n - 2) & 3)
    code = np.where(magnitude < DIRECT, magnitude, code)
    tokens = np.where(wide, WIDE, 2 * code + (v < 0)).astype(np.uint8)
    extra = EXTRA[tokens]
    parts = []
    for bits in np.unique(extra[extra > 0]):
        some = np.where(wide, v, magnitude)[extra == bits]
        parts += _pack(some.view(np.uint64), int(bits))
    return tokens, parts


def token_bits(v: Int64[np.ndarray, "..."]) -> float:
    """About the bits that v take: the entropy of the tokens, and the bits below."""
    tokens = to_tokens(v.reshape(-1))[0]
    count = np.bincount(tokens, minlength=256)
    share = count[count > 0]
    return float((share * np.log2(tokens.size / share)).sum() + (count * EXTRA).sum())


def from_tokens(tokens: UInt8[np.ndarray, " n"], data: memoryview) -> Int64[np.ndarray, " n"]:
    """The inverse. All of data is used, or CorruptStream is raised."""
    extra = EXTRA[tokens]
    v = LEAST[np.minimum(tokens, WIDE - 1)]
    for bits in np.unique(extra[extra > 0]):
        here = extra == bits
        count = np.count_nonzero(here)
        size = _packed_nbytes(count, int(bits))
        if size > len(data):
            raise CorruptStream(f"expected {size} bytes below tokens, got {len(data)}; truncated?")
        some = _unpack(data[:size], count, int(bits)).view(np.int64)
        v[here] = some if bits == WIDE_BITS else v[here] + some
        data = data[size:]
    if len(data):
        raise CorruptStream(f"expected the bits below tokens to end, got {len(data)} bytes more")
    negative = (tokens & 1).astype(bool) & (tokens != WIDE)
    return np.where(negative, -v, v)


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
