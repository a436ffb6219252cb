"""Magnitudes as symbols and raw bits, and those bits as bytes. NumPy only.

Magnitudes 0 .. 11 are symbols of their own; symbol 12 + b stands for a bucket of 2**(b + 1)
magnitudes (the last: 2**13). Signs and the places inside buckets are incompressible: one plain bit
string, the sign bits of all non-zero magnitudes first, then the places in the same order.
"""

import numpy as np

from jaxcomp.base import CorruptStream

SYMBOLS = 24
EDGES = np.array(
    [*range(12), *(12 + 2 * ((1 << b) - 1) for b in range(12))], np.int32
)  # the least magnitude of each symbol
EXTRA = np.array([0] * 12 + [*range(1, 12), 13], np.int32)  # raw bits after each symbol
LARGEST = int(EDGES[-1]) + (1 << 13) - 1


def symbols_of(magnitudes: np.ndarray) -> np.ndarray:
    """u8 symbols of magnitudes 0 .. LARGEST."""
    return (np.searchsorted(EDGES, magnitudes, side="right") - 1).astype(np.uint8)


def pack(values: np.ndarray, symbols: np.ndarray) -> bytes:
    """The raw bits of int values whose magnitudes have these symbols, in C order."""
    present = symbols > 0
    values, symbols = values[present], symbols[present]
    wide = symbols >= 12
    place, width = (np.abs(values) - EDGES[symbols])[wide], EXTRA[symbols[wide]]
    bits = (place[:, None] >> np.arange(13)) & 1
    return np.packbits(
        np.concatenate([values < 0, bits[np.arange(13) < width[:, None]].astype(bool)])
    ).tobytes()


def unpack(data: bytes, symbols: np.ndarray) -> np.ndarray:
    """int32 values of those symbols. Raises CorruptStream unless `data` is exactly as long."""
    where = np.flatnonzero(symbols)
    kind = symbols.reshape(-1)[where]
    wide = kind >= 12
    width = EXTRA[kind[wide]]
    total = len(where) + int(width.sum())
    if len(data) != -(-total // 8):
        raise CorruptStream(
            f"expected {-(-total // 8)} bytes of signs and places, got {len(data)}; the file is "
            "damaged: fetch or write it again"
        )
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    magnitude = EDGES[kind].copy()
    held = np.arange(13) < width[:, None]
    place = np.zeros(held.shape, np.int32)
    place[held] = bits[len(where) : total]
    magnitude[wide] += (place << np.arange(13)).sum(1, dtype=np.int32)
    values = np.zeros(symbols.size, np.int32)
    values[where] = np.where(bits[: len(where)] == 1, -magnitude, magnitude)
    return values.reshape(symbols.shape)
