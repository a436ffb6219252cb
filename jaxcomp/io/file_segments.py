"""What the bytes of a model file are: arrays by name, and other bytes, that together are the file.

A .safetensors file is its header and its tensors in the order of their bytes; a .npy file is its
header and an array; any other file is bytes. Written one after another they are the file again.
"""

import ast
import json
import math
import os
from io import BufferedIOBase
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.base import UnsupportedInput
from jaxcomp.io.safetensors_leaves import DTYPES, HEADER_LIMIT
from jaxcomp.io.tree_nodes import DTYPES as KNOWN
from jaxcomp.io.tree_nodes import dtype_of

BYTES = np.dtype(np.uint8)
NPY_MAGIC = b"\x93NUMPY"
NPY_LIMIT = 10_000  # of a header in text, as NumPy has it


class Segment(NamedTuple):
    """A run of bytes: an array, or, where name is None, just bytes."""

    name: str | None
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def raw(nbytes: int) -> Segment:
    """Bytes that are no array."""
    return Segment(None, BYTES, (nbytes,))


def file_segments(path: str | os.PathLike[str], name: str = "array") -> list[Segment]:
    """The segments of a file, by its suffix. UnsupportedInput for one that is not what it is named.

    name: of the array in a .npy file; tensors have their names.
    """
    size, suffix = os.path.getsize(path), os.path.splitext(path)[1].lower()
    with open(path, "rb") as file:
        if suffix == ".safetensors":
            found = _safetensors(file, size)
        elif suffix == ".npy":
            found = npy_segments(file, size, name)
        else:
            found = [raw(size)]
    return [segment for segment in found if segment.nbytes or segment.name is not None]


def npy_segments(file: BufferedIOBase, size: int, name: str) -> list[Segment]:
    """Header and array of a .npy file of this size, and what follows. Python objects are refused.

    Arrays of no dtype of ours (texts, records, big-endian numbers) are bytes. An array in Fortran
    order is the transpose of what is stored, and listed so: its axes are reversed.
    """
    head = file.read(8)
    wide = 2 if head[6:7] == b"\x01" else 4
    if head[:6] != NPY_MAGIC or head[6:8] not in (b"\x01\0", b"\x02\0", b"\x03\0"):
        _refuse("a .npy file", f"one that begins with {head!r}")
    length = int.from_bytes(file.read(wide), "little")
    if length > min(size, NPY_LIMIT):
        _refuse("a .npy header", f"one of {length} bytes")
    try:
        encoding = "utf-8" if head[6:7] == b"\x03" else "latin-1"
        header = ast.literal_eval(file.read(length).decode(encoding).strip())
        dtype = np.lib.format.descr_to_dtype(header["descr"])
        shape, fortran = header["shape"], header["fortran_order"]
        good = all(type(n) is int and n >= 0 for n in shape) and type(fortran) is bool
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        _refuse("a .npy header", f"another ({error})")
    if not good:
        _refuse("a .npy header", f"a shape of {ascii(shape)[:40]}")
    if dtype.hasobject:
        raise UnsupportedInput(
            f"{name}: expected an array of numbers, got Python objects, which only a pickle holds "
            "and we never open; save it as numbers or text"
        )
    start = 8 + wide + length
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes > size - start:
        _refuse(f"{nbytes} bytes of an array", f"{size - start}: truncated?")
    body = raw(nbytes)
    if dtype.name in KNOWN and dtype.newbyteorder("<") == dtype:
        body = Segment(name, dtype, tuple(shape[::-1] if fortran else shape))
    return [raw(start), body, raw(size - start - nbytes)]


def _safetensors(file: BufferedIOBase, size: int) -> list[Segment]:
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, HEADER_LIMIT):
        _refuse("a safetensors file", f"{size} bytes with a header of {length}")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        _refuse("a safetensors file", f"a header that is no JSON ({error})")
    if not isinstance(header, dict):
        _refuse("a safetensors file", "a header that is no object")
    header.pop("__metadata__", None)
    spans = sorted((_span(name, entry) for name, entry in header.items()), key=lambda s: s[:2])
    found, at, body = [raw(8 + length)], 0, size - 8 - length
    for start, end, segment in spans:
        if not at <= start <= end <= body:
            _refuse("tensors one after another", f"bytes {start} to {end} of {segment.name!r:.60}")
        found += [raw(start - at), segment]
        at = end
    return [*found, raw(body - at)]


def _span(name: str, entry: Any) -> tuple[int, int, Segment]:
    """(first byte, end, segment) of one tensor. A dtype that we do not know is bytes, by name."""
    try:
        code, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        good = all(type(n) is int and 0 <= n < 1 << 60 for n in [*shape, start, end])
    except (KeyError, TypeError, ValueError):
        good = False
    if not good or start > end:
        _refuse("dtype, shape and data_offsets", f"{ascii(entry)[:60]} for {ascii(name)[:60]}")
    if not isinstance(code, str) or code not in DTYPES:
        return start, end, Segment(name, BYTES, (end - start,))
    segment = Segment(name, dtype_of(DTYPES[code]), tuple(shape))
    if segment.nbytes != end - start:
        _refuse(f"{segment.nbytes} bytes of {ascii(name)[:60]}", f"{end - start}")
    return start, end, segment


def _refuse(expected: str, got: str):
    raise UnsupportedInput(f"expected {expected}, got {got}; is the file what its name says?")
