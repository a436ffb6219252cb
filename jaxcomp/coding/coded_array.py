"""One array <-> bytes, exactly: each kind of number as symbols, coded where that saves.

"bytes"  the array's bytes little-endian, first the lowest byte of every value, then the next: signs
         and exponents of floats are far from uniform, low bits of mantissas are not
"codes"  packed codes of a QTensor one by one (kernels/packing.py): codes that share a byte, or lie
         across planes of bits, are told apart

A plane of n symbols is stored as it is, n bytes, or in fewer as

    u8     k, and frequency - 1 of every symbol as exponential Golomb codes (coding/universal.py)
    rest   an rANS message (coding/stream.py)

What a plane claims to hold is at most EXPANSION times its bytes, in the writer as in the reader.
"""

import math
from typing import NamedTuple

import numpy as np

from jaxcomp import coding
from jaxcomp.base import CorruptStream, JaxcompError
from jaxcomp.coding import universal
from jaxcomp.kernels import packing

# A symbol of probability (2**16 - 255) / 2**16 takes 0.0056 bits: no byte holds more than 1424 of
# 256 kinds. Of fewer kinds more would fit; such planes are stored as bytes.
EXPANSION = 2048
# Below this a table, of tens of bytes at least, and heads of lanes never pay.
LEAST = 128
PRECISION = 16


class Codes(NamedTuple):
    """How codes are packed: bits and tile of kernels/packing.py, and the axis from the right."""

    bits: int
    tile: int
    axis: int

    @property
    def alphabet(self) -> int:
        return 3 if self.bits == packing.TRITS else 1 << self.bits

    @property
    def tile_bytes(self) -> int:
        return packing.tile_bytes(self.tile, self.bits)


def write_array(x: np.ndarray, codes: Codes | None = None) -> tuple[str, list[bytes]]:
    """(kind, planes) of an array: "bytes", or "codes" where they are given and it is smaller."""
    planes = [_write_plane(plane, 256) for plane in byte_planes(x)]
    if codes is not None and (symbols := unpacked_codes(x, codes)) is not None:
        coded = _write_plane(symbols, codes.alphabet)
        if len(coded) < min(len(symbols), sum(map(len, planes))):
            return "codes", [coded]
    return "bytes", planes


def symbol_counts(
    kind: str, shape: tuple[int, ...], dtype: np.dtype, codes: Codes | None
) -> list[int]:
    """Symbols in each plane of an array. CorruptStream for a kind that it cannot have."""
    size = math.prod(shape)
    if kind == "bytes":
        return [size] * dtype.itemsize
    fits = codes is not None and len(shape) >= -codes.axis and codes.tile_bytes > 0
    if kind != "codes" or not fits or dtype != np.uint8 or shape[codes.axis] % codes.tile_bytes:
        raise CorruptStream(f"expected bytes or packed codes, got {ascii(kind)[:40]} of {shape}")
    return [size // codes.tile_bytes * codes.tile]


def check_plane(length: int, symbols: int) -> None:
    """CorruptStream for a plane that no writer made: too large, or too much in too little."""
    if length > symbols or symbols > EXPANSION * length:
        raise CorruptStream(
            f"expected at most {symbols} bytes for as many symbols, and at least 1 for {EXPANSION},"
            f" got {length}; fetch or write the file again"
        )


def read_array(
    kind: str, planes: list[bytes], shape: tuple[int, ...], dtype: np.dtype, codes: Codes | None
) -> np.ndarray:
    """The array of write_array, of planes that check_plane has seen."""
    counts = symbol_counts(kind, shape, dtype, codes)
    if kind == "codes":
        symbols = _read_plane(planes[0], counts[0], codes.alphabet)
        return _pack(symbols, codes, shape)
    read = [_read_plane(p, n, 256) for p, n in zip(planes, counts, strict=True)]
    values = np.ascontiguousarray(np.stack(read, -1)) if read else np.zeros(0, np.uint8)
    return values.reshape(-1).view(dtype).reshape(shape)


def byte_planes(x: np.ndarray) -> list[np.ndarray]:
    """The u8 planes of an array, lowest byte first."""
    flat = np.ascontiguousarray(x).reshape(-1).view(np.uint8).reshape(x.size, x.dtype.itemsize)
    return [np.ascontiguousarray(plane) for plane in flat.T]


def _write_plane(symbols, alphabet):
    raw = symbols.tobytes()
    if symbols.size < LEAST:
        return raw
    counts = np.bincount(symbols, minlength=alphabet).astype(np.float64)
    share = counts[counts > 0] / symbols.size
    if -(share * np.log2(share)).sum() * symbols.size / 8 > 0.99 * len(raw):
        return raw  # what is saved would not pay for the time
    tables = coding.build_tables(counts, precision=PRECISION)
    table = np.asarray(tables.entries).reshape(-1) >> 16  # frequency - 1
    k = universal.best_exponential_golomb(table)
    coded = bytes([k]) + universal.exponential_golomb_encode(table, k)
    coded += coding.to_bytes(coding.encode(tables, symbols.astype(np.int32)))
    return coded if len(raw) / EXPANSION <= len(coded) < len(raw) else raw


def _read_plane(data, count, alphabet):
    if len(data) == count:
        symbols = np.frombuffer(data, np.uint8)
        if alphabet < 256 and symbols.size and symbols.max() >= alphabet:
            raise CorruptStream(f"expected codes below {alphabet}, got {symbols.max()}")
        return symbols
    if not data or data[0] >= PRECISION:
        raise CorruptStream(f"expected a table of {alphabet} symbols, got {len(data)} bytes")
    table, used = universal.exponential_golomb_decode(data[1:], alphabet, data[0])
    if int(table.sum()) + alphabet != 1 << PRECISION:
        raise CorruptStream("expected frequencies that sum to 65536, got others")
    tables = coding.build_tables(table.astype(np.float64) + 1, precision=PRECISION)
    try:
        stream = coding.from_bytes(data[1 + used :])
        return np.asarray(coding.decode(tables, stream, shape=(count,))).astype(np.uint8)
    except CorruptStream:
        raise
    except (JaxcompError, ValueError, OverflowError) as error:
        raise CorruptStream(f"expected a stream of {count} symbols, got none: {error}") from None


def unpacked_codes(x: np.ndarray, codes: Codes) -> np.ndarray | None:
    """u8[n] of all codes, tile by tile; None where packing them again would give other bytes."""
    if x.dtype != np.uint8 or codes.bits == 8 or x.shape[codes.axis] % codes.tile_bytes:
        return None
    tiles = _tiles(x, codes)
    symbols = _unpack_tiles(tiles, codes)
    if codes.bits == packing.TRITS and not np.array_equal(_pack_tiles(symbols, codes), tiles):
        return None
    return symbols.reshape(-1)


def _pack(symbols, codes, shape):
    tiles = _pack_tiles(symbols.reshape(-1, codes.tile), codes)
    moved = list(shape)
    moved.append(moved.pop(codes.axis))
    return np.ascontiguousarray(np.moveaxis(tiles.reshape(moved), -1, codes.axis))


def _tiles(x, codes):
    """[tiles, bytes of one], the packed axis last."""
    return np.ascontiguousarray(np.moveaxis(x, codes.axis, -1)).reshape(-1, codes.tile_bytes)


def _unpack_tiles(tiles, codes):
    """kernels.packing.unpack by NumPy, for which no shape has to be compiled."""
    if codes.bits == packing.TRITS:
        parts = [tiles // 3**j % 3 for j in range(packing.TRITS_PER_BYTE)]
        return np.concatenate(parts, 1)[:, : codes.tile]
    symbols, low, start = np.zeros((len(tiles), codes.tile), np.uint8), 0, 0
    for width in packing.planes(codes.bits):
        plane = tiles[:, start : start + codes.tile * width // 8]
        parts = [plane >> shift & ((1 << width) - 1) for shift in range(0, 8, width)]
        symbols |= np.concatenate(parts, 1) << low
        low, start = low + width, start + plane.shape[1]
    return symbols


def _pack_tiles(symbols, codes):
    """kernels.packing.pack by NumPy."""
    if codes.bits == packing.TRITS:
        short = -codes.tile % packing.TRITS_PER_BYTE
        parts = np.split(np.pad(symbols, ((0, 0), (0, short))), packing.TRITS_PER_BYTE, 1)
        return sum(part * np.uint8(3**j) for j, part in enumerate(parts))
    done, low = [], 0
    for width in packing.planes(codes.bits):
        parts = np.split(symbols >> low & ((1 << width) - 1), 8 // width, 1)
        shifted = [part << shift for part, shift in zip(parts, range(0, 8, width), strict=True)]
        done.append(np.bitwise_or.reduce(shifted))
        low += width
    return np.concatenate(done, 1)
