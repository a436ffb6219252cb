"""Universal codes for non-negative integers: unary prefixes, then the bits they announce.

    Elias gamma (1975)       v >= 1    floor(log2 v) zeros, a one, then the bits below the top one
    exponential Golomb k     v >= 0    Elias gamma of (v >> k) + 1, then the k low bits
    Golomb-Rice k            v >= 0    v >> k zeros, a one, then the k low bits

All prefixes come first and all remainders after them, so that both are packed and unpacked with
whole-array operations. These are host functions on NumPy arrays, for headers and side information.
"""

import numpy as np

from jaxcomp.base import CorruptStream, JaxcompError

PIECE = 1 << 13  # codes unpacked at once
LONGEST_PREFIX = 33  # bits: values below 2**32 have at most 32 zeros and a one


def pack_bits(values: np.ndarray, lengths: np.ndarray) -> bytes:
    """Concatenate the `lengths[i]` low bits of each value, high bit first, padded to a byte."""
    lengths = np.asarray(lengths, np.int64)
    ends = np.cumsum(lengths)
    # Bit number from the low end of each value: lengths - 1, ..., 0.
    below = np.repeat(ends, lengths) - 1 - np.arange(ends[-1] if len(ends) else 0)
    bits = np.repeat(np.asarray(values, np.uint64), lengths) >> below.astype(np.uint64) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def unpack_bits(data: bytes, lengths: np.ndarray) -> tuple[np.ndarray, int]:
    """The inverse of pack_bits: (uint64 values, bytes used). Raises CorruptStream when short."""
    lengths = np.asarray(lengths, np.int64)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    used = -(-int(ends[-1]) // 8)
    if used > len(data):
        raise CorruptStream(f"expected {used} bytes of packed bits, got {len(data)}; truncated?")
    values = np.empty(len(lengths), np.uint64)
    # A piece at a time: every bit becomes eight bytes on the way.
    for first in range(0, len(lengths), PIECE):
        piece = slice(first, first + PIECE)
        start, stop = int(ends[first]), int(ends[min(first + PIECE, len(lengths))])
        packed = np.frombuffer(data, np.uint8, -(-stop // 8) - start // 8, start // 8)
        bits = np.unpackbits(packed)[start % 8 :][: stop - start].astype(np.uint64)
        local, length = ends[1:][piece] - start, lengths[piece]
        below = np.repeat(local, length) - 1 - np.arange(stop - start)
        sums = np.zeros(stop - start + 1, np.uint64)
        np.cumsum(bits << below.astype(np.uint64), out=sums[1:])
        # Sums wrap, their differences do not.
        values[piece] = sums[local] - sums[local - length]
    return values, used


def elias_gamma_encode(values: np.ndarray) -> bytes:
    """Bytes for positive integers below 2**32; 2 floor(log2 v) + 1 bits each."""
    values = _integers(values, 1)
    return exponential_golomb_encode(values - 1, 0)


def elias_gamma_decode(data: bytes, count: int) -> tuple[np.ndarray, int]:
    """(values, bytes used) of `count` integers. Raises CorruptStream."""
    values, used = exponential_golomb_decode(data, count, 0)
    return values + 1, used


def exponential_golomb_encode(values: np.ndarray, k: int) -> bytes:
    """Bytes for integers in [0, 2**32); 2 floor(log2((v >> k) + 1)) + 1 + k bits each."""
    values = _integers(values, 0)
    quotient = (values >> np.uint64(k)) + np.uint64(1)
    zeros = np.frexp(quotient.astype(np.float64))[1] - 1
    # Without its top bit the quotient needs `zeros` bits; the low k bits follow it.
    rest = quotient - (np.uint64(1) << zeros.astype(np.uint64))
    low = values & np.uint64((1 << k) - 1)
    return _unary(zeros) + pack_bits(rest << np.uint64(k) | low, zeros + k)


def exponential_golomb_decode(data: bytes, count: int, k: int) -> tuple[np.ndarray, int]:
    """(values, bytes used) of `count` integers. Raises CorruptStream."""
    # No code has a longer prefix, so the rest of the data need not be looked at.
    zeros, used = _count_zeros(data[: -(-LONGEST_PREFIX * count // 8)], count)
    if count and zeros.max() >= LONGEST_PREFIX:
        raise CorruptStream(f"expected integers below 2**32, got a prefix of {zeros.max()} zeros")
    rest, more = unpack_bits(data[used:], zeros + k)
    top = (np.uint64(1) << zeros.astype(np.uint64)) - np.uint64(1)
    return (top << np.uint64(k)) + rest, used + more


def best_exponential_golomb(values: np.ndarray) -> int:
    """The k in 0..31 that codes these values in the fewest bits."""
    values = _integers(values, 0)
    if not len(values):
        return 0

    def bits(k):
        return len(values) * k + 2 * np.floor(np.log2((values >> np.uint64(k)) + 1.0)).sum()

    return min(range(32), key=bits)


def golomb_rice_encode(values: np.ndarray, k: int) -> bytes:
    """Bytes for integers in [0, 2**32); (v >> k) + 1 + k bits each: keep v >> k small."""
    values = _integers(values, 0)
    quotient = (values >> np.uint64(k)).astype(np.int64)
    if quotient.sum() > 1 << 33:
        raise JaxcompError(f"these values need {quotient.sum()} unary bits at k={k}; raise k")
    return _unary(quotient) + pack_bits(values & np.uint64((1 << k) - 1), np.full(len(values), k))


def golomb_rice_decode(data: bytes, count: int, k: int) -> tuple[np.ndarray, int]:
    """(values, bytes used) of `count` integers. Raises CorruptStream."""
    quotient, used = _count_zeros(data, count)
    low, more = unpack_bits(data[used:], np.full(count, k))
    return (quotient.astype(np.uint64) << np.uint64(k)) + low, used + more


def _integers(values, least):
    values = np.asarray(values)
    if values.size and (values.min() < least or values.max() >= 1 << 32):
        raise JaxcompError(
            f"expected integers in [{least}, 2**32), got {values.min()} to {values.max()}"
        )
    return values.astype(np.uint64).reshape(-1)


def _unary(zeros):
    """zeros[i] zero bits and a one, for each i; padded to a byte."""
    ends = np.cumsum(zeros + 1)
    bits = np.zeros(ends[-1] if len(ends) else 0, np.uint8)
    bits[ends - 1] = 1
    return np.packbits(bits).tobytes()


def _count_zeros(data, count):
    """(zeros before each of the first `count` ones, bytes up to the last of them)."""
    if count > 8 * len(data):
        raise CorruptStream(f"expected {count} codes in {8 * len(data)} bits; truncated?")
    ones = np.flatnonzero(np.unpackbits(np.frombuffer(data, np.uint8)))[:count]
    if len(ones) < count:
        raise CorruptStream(f"expected {count} codes, found {len(ones)}; truncated?")
    used = int(ones[-1]) // 8 + 1 if count else 0
    return np.diff(ones, prepend=-1) - 1, used
