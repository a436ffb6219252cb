"""Trained arrays as few bytes: floats on a grid per feature, and everything through the coder.

    x ~ q 2**-e,    |q| < 2**11, e for each feature (the last axis)         floats
    q = 2**k symbol + rest                                                  integers of any size

Symbols of all large arrays are one rANS message with a table of counts for each array; the rest is
k plain bits a value, k the least for which 256 symbols are enough. What is small is stored as it
is. Twelve bits on a grid of their own are far finer than what training leaves undecided.

    u32   bytes of the tables, which follow: u16 frequencies - 1, a row of 256 for each large array
    u32   bytes of the rANS message, which follows
    the rest: for each array in order, small ones whole, of large ones the planes of their low bits
"""

import math
import struct
from typing import Any

import numpy as np

from jaxcomp import coding
from jaxcomp.base import CorruptStream

FLOAT_BITS = 12
SYMBOLS = 256
LARGE = 4096  # values: a table of 512 bytes pays from here on
GROUPED = 64  # lanes: 160 bytes, and as fast as it gets
DTYPES = ("<f4", "<i4", "<u4", "<i2", "|i1")
# Ten times what the largest design takes.
LARGEST = 1 << 28
_EXPONENT = "exponent"


def pack_arrays(arrays: dict[str, Any]) -> tuple[list[list[Any]], bytes]:
    """(listing, bytes): [path, dtype, shape, low, k] of each array, and what unpack_arrays reads.

    Floats come back rounded to FLOAT_BITS bits; packed again they give the same bytes.
    """
    listing, symbols, index, rest = [], [], [], []
    for path, array in sorted(_on_grids(arrays).items()):
        low, k = 0, 0
        if array.size >= LARGE:
            values = array.astype(np.int64).ravel()
            low = int(values.min())
            values = values - low
            k = max(0, int(values.max()).bit_length() - 8)
            symbols.append((values >> k).astype(np.int32))
            index.append(np.full(values.size, len(index), np.int32))
            rest += [
                np.packbits((values >> bit & 1).astype(np.uint8)).tobytes() for bit in range(k)
            ]
        else:
            rest.append(array.tobytes())
        listing.append([path, array.dtype.str, list(array.shape), low, k])
    message, frequencies = b"", b""
    if symbols:
        counts = np.stack([np.bincount(s, minlength=SYMBOLS) for s in symbols])
        tables = coding.build_tables(counts.astype(np.float64))
        frequencies = (np.asarray(tables.frequencies) - 1).astype("<u2").tobytes()
        stream = coding.encode(
            tables, np.concatenate(symbols), np.concatenate(index), lanes=GROUPED
        )
        message = coding.to_bytes(stream)
    head = struct.pack("<I", len(frequencies)) + frequencies + struct.pack("<I", len(message))
    return listing, head + message + b"".join(rest)


def unpack_arrays(listing: list[Any], data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a listing. Raises CorruptStream for bytes that pack_arrays did not write."""
    entries = [_checked(entry, len(data)) for entry in listing]
    sizes = [math.prod(shape) for _, _, shape, _, _ in entries]
    large = [i for i, size in enumerate(sizes) if size >= LARGE]
    tables, position = _take(data, 0, struct.unpack_from("<I", data.ljust(4, b"\0"))[0], 4)
    if len(tables) != 2 * SYMBOLS * len(large) or len(data) < position + 4:
        raise CorruptStream(f"expected {len(large)} tables, got {len(tables)} bytes of them")
    size = struct.unpack_from("<I", data, position)[0]
    message, position = _take(data, position, size, 4)
    symbols = np.split(
        _read_symbols(tables, message, [sizes[i] for i in large]),
        np.cumsum([sizes[i] for i in large])[:-1],
    )
    arrays, of_large = {}, dict(zip(large, symbols, strict=False))
    for i, (path, dtype, shape, low, k) in enumerate(entries):
        if i not in of_large:
            part, position = _take(data, position, sizes[i] * dtype.itemsize)
            arrays[path] = np.frombuffer(part, dtype).reshape(shape)
            continue
        values = of_large[i].astype(np.int64) << k
        for bit in range(k):
            part, position = _take(data, position, -(-sizes[i] // 8))
            plane = np.unpackbits(np.frombuffer(part, np.uint8))[: sizes[i]]
            values |= plane.astype(np.int64) << bit
        arrays[path] = (values + low).astype(dtype).reshape(shape)
    if position != len(data):
        raise CorruptStream(f"expected {position} bytes of arrays, got {len(data)}")
    return _off_grids(arrays)


def _on_grids(arrays):
    """Floats as int16 and the exponents of their features; integers as they are."""
    out = {}
    for path, array in arrays.items():
        array = np.asarray(array)
        if array.dtype.kind != "f":
            out[path] = array.astype(array.dtype.newbyteorder("<"))
            continue
        peak = np.abs(array).reshape(-1, array.shape[-1] if array.ndim else 1).max(0)
        limit = (1 << (FLOAT_BITS - 1)) - 1
        exponent = np.where(peak > 0, np.floor(np.log2(limit / np.maximum(peak, 1e-30))), 0)
        out[path] = np.rint(np.ldexp(array, exponent.astype(np.int32))).astype("<i2")
        out[f"{path}/{_EXPONENT}"] = exponent.astype("|i1")
    return out


def _off_grids(arrays):
    out = {}
    for path, array in arrays.items():
        if path.endswith(f"/{_EXPONENT}"):
            continue
        exponent = arrays.get(f"{path}/{_EXPONENT}")
        if exponent is not None:
            if exponent.shape != array.shape[-1:]:
                raise CorruptStream(f"expected an exponent per feature of {path[:60]}")
            array = np.ldexp(array.astype(np.float32), -exponent.astype(np.int32))
        out[path] = array
    return out


def _checked(entry, room):
    """One row of a listing; every value takes a tenth of a bit at least."""
    if not isinstance(entry, list) or len(entry) != 5:
        raise CorruptStream(f"expected an array, got {ascii(entry)[:60]}")
    path, dtype, shape, low, k = entry
    whole = isinstance(shape, list) and all(type(n) is int and 0 <= n < LARGEST for n in shape)
    whole = whole and type(low) is int and abs(low) < 1 << 31 and k in range(25)
    if not isinstance(path, str) or dtype not in DTYPES or not whole or math.prod(shape) >= LARGEST:
        raise CorruptStream(f"expected an array, got {ascii(entry)[:60]}")
    if math.prod(shape) > 80 * room + LARGE:
        raise CorruptStream(f"expected {math.prod(shape)} values, got {room} bytes in all")
    return path, np.dtype(dtype), tuple(shape), low, k


def _take(data, position, size, skip=0):
    """(size bytes after position + skip, the position after them)."""
    begin = position + skip
    if begin + size > len(data):
        raise CorruptStream(f"expected {size} bytes of arrays, got {len(data) - begin}")
    return data[begin : begin + size], begin + size


def _read_symbols(tables, message, sizes):
    if not sizes:
        return np.zeros(0, np.int32)
    frequencies = np.frombuffer(tables, "<u2").reshape(-1, SYMBOLS).astype(np.float64) + 1
    if (frequencies.sum(1) != 1 << 16).any():
        raise CorruptStream("expected tables that sum to 65536, got others")
    index = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    stream = coding.from_bytes(message)
    return np.asarray(coding.decode(coding.build_tables(frequencies), stream, index))
