"""Which channels hold anything but zeros, as far as that is worth saying: runs of equal flags.

u8 the first flag, u8 k, u16 how many runs, and their lengths - 1 as exponential Golomb codes of
order k, the best for these.
"""

import numpy as np
from jaxtyping import Bool, Float

from jaxcomp.base import CorruptStream
from jaxcomp.coding import run_length, universal

# What a run of zeros and its end take: two lengths.
RUN_BITS = 12


def worth_naming(
    active: Bool[np.ndarray, " c"], bits: Float[np.ndarray, " c"]
) -> Bool[np.ndarray, " c"]:
    """active, and runs of others that take fewer bits, coded as zeros, than naming them would."""
    values, lengths = run_length.run_length_encode(active)
    ends = np.cumsum(lengths)
    taken = np.add.reduceat(bits, ends - lengths)
    return np.repeat(values.astype(bool) | (taken < RUN_BITS), lengths)


def pack_flags(active: Bool[np.ndarray, " c"]) -> bytes:
    """The bytes of at least one flag."""
    values, lengths = run_length.run_length_encode(active)
    k = universal.best_exponential_golomb(lengths - 1)
    runs = universal.exponential_golomb_encode(lengths - 1, k)
    return bytes([int(values[0]), k, len(lengths) & 255, len(lengths) >> 8]) + runs


def unpack_flags(data: bytes, count: int) -> Bool[np.ndarray, " c"]:
    """`count` flags of all of the data. Raises CorruptStream."""
    if len(data) < 4 or data[0] > 1 or data[1] > 31:
        raise CorruptStream(f"expected flags of {count} channels, got {data[:4].hex()}")
    runs = data[2] | data[3] << 8
    lengths, used = universal.exponential_golomb_decode(data[4:], runs, data[1])
    if used != len(data) - 4:
        raise CorruptStream(f"expected {used} bytes of flags, got {len(data) - 4}")
    values = (np.arange(runs) + data[0]) % 2 == 1
    return run_length.run_length_decode(values, lengths.astype(np.int64) + 1, count=count)
