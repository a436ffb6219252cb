"""GGUF files: metadata, and tensors by name as leaves, blocks or arrays.

    "GGUF" u32 version, u64 tensors, u64 entries of metadata, then of each entry
        string key, u32 type, value        strings are u64 bytes of UTF-8; arrays u32 type, u64 n
    of each tensor: string name, u32 axes, u64 sizes (the last axis first), u32 kind, u64 offset
    zeros up to a multiple of general.alignment (32), and the tensors, each filled up so

All little-endian, versions 2 and 3, as the specification of ggml has it (docs/gguf.md, 2024). A
file is not trusted: nothing is taken before it is found to fit the bytes that are there, offsets
must follow each other as writers make them, and a file of version 3 that was loaded is written
again byte for byte, if its metadata are passed on.
"""

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.coding.atomic import replacing
from jaxcomp.formats.leaf import Leaf
from jaxcomp.formats.qtensor import QTensor
from jaxcomp.io.gguf_blocks import KINDS
from jaxcomp.io.gguf_leaves import CARRIED, GGUFBlocks, block_shape, blocks_of, kind_of, leaf_of
from jaxcomp.io.weights_file import on_device

MAGIC, VERSION, VERSIONS = b"GGUF", 3, (2, 3)
ALIGNMENT, LARGEST_ALIGNMENT = 32, 1 << 16
RANK_LIMIT = 4  # of ggml
NAME_LIMIT = 63  # bytes that ggml keeps of a tensor's name
DEPTH_LIMIT = 4  # of arrays in arrays: files have one
PLAIN = {
    **{0: np.dtype("<f4"), 1: np.dtype("<f2"), 24: np.dtype("i1"), 25: np.dtype("<i2")},
    **{26: np.dtype("<i4"), 27: np.dtype("<i8"), 28: np.dtype("<f8")},
    30: np.dtype(ml_dtypes.bfloat16),
}
NAMES = {made.number: name for name, made in KINDS.items()}
NAMES |= {number: name for name, (number, _, _) in CARRIED.items()}
NUMBERS = {name: number for number, name in NAMES.items()}
# Types of metadata by number; 8 is a string and 9 an array.
TYPES = {
    **{0: np.uint8, 1: np.int8, 2: np.uint16, 3: np.int16, 4: np.uint32, 5: np.int32},
    **{6: np.float32, 7: np.bool_, 10: np.uint64, 11: np.int64, 12: np.float64},
}
STRING, ARRAY = 8, 9


class _Entry(NamedTuple):
    name: str
    shape: tuple[int, ...]
    number: int
    start: int
    end: int


def load_gguf(path: str | os.PathLike[str]) -> dict[str, Any]:
    """{name: QTensor [..., in], GGUFBlocks or array}, in the order of the file; see gguf_leaves.py.

    CorruptStream for what is no GGUF file, UnsupportedInput for other versions and unknown kinds.
    """
    data = _bytes(path)
    _, entries = _header(data)
    tree = {}
    for entry in entries:
        raw = np.array(data[entry.start : entry.end])
        if entry.number in PLAIN:
            x = raw.view(PLAIN[entry.number]).reshape(entry.shape)
            tree[entry.name] = on_device(x)
            continue
        blocks = GGUFBlocks(NAMES[entry.number], raw.reshape(*entry.shape[:-1], -1))
        tree[entry.name] = leaf_of(blocks)
    return tree


def gguf_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata: NumPy scalars and arrays of the types in the file, str, lists of these."""
    return _header(_bytes(path))[0]


def save_gguf(
    path: str | os.PathLike[str], tree: Any, metadata: dict[str, Any] | None = None
) -> int:
    """Write {name: array, GGUFBlocks or QTensor}; returns the bytes of the file.

    Nested dicts have their keys joined by dots. Python numbers in metadata become u32 or i32 (u64,
    i64 where they must) and f32; NumPy's keep their type. Nothing is rounded: UnsupportedInput for
    a leaf that no kind of block holds, naming it, and for dtypes that GGUF does not have.
    """
    metadata = {} if metadata is None else dict(metadata)
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int | np.integer):
        raise UnsupportedInput(
            f"expected a whole number for general.alignment, got {alignment!r:.40}; leave it out "
            "for 32"
        )
    _check_alignment(alignment := int(alignment), UnsupportedInput)
    rows = [(name, x, *_stored(name, x)) for name, x in _flat(tree)]
    if len({name for name, *_ in rows}) != len(rows):
        raise UnsupportedInput(
            "expected a name of its own for each tensor, got two of one name; rename a key"
        )
    head = [MAGIC, _u32(VERSION), _u64(len(rows)), pack_metadata(metadata)]
    at = 0
    for name, _, shape, number in rows:
        head += [_string(name), _u32(len(shape)), *map(_u64, reversed(shape))]
        head += [_u32(number), _u64(at)]
        nbytes = _nbytes(name, shape, number)
        at += nbytes + -nbytes % alignment
    first = b"".join(head)
    if rows:  # a vocabulary alone ends here
        first += bytes(-len(first) % alignment)
    with replacing(path) as file:
        file.write(first)
        for _, x, _, _ in rows:  # one tensor's bytes at a time
            x = blocks_of(x) if isinstance(x, QTensor) else x
            raw = np.ascontiguousarray(x.data if isinstance(x, GGUFBlocks) else np.asarray(x))
            file.write(raw.reshape(-1).view(np.uint8))
            file.write(bytes(-raw.nbytes % alignment))
    return len(first) + at


def pack_metadata(metadata: Mapping[str, Any], names: Iterable[str] = ()) -> bytes:
    """Metadata as a GGUF file has them, and the names of tensors in their order, after them."""
    done = [_u64(len(metadata))]
    for key, value in metadata.items():
        number, data = _value(key, value, 0)
        done += [_string(key), _u32(number), data]
    return b"".join([*done, *map(_string, names)])


def unpack_metadata(data: bytes) -> tuple[dict[str, Any], list[str]]:
    """(metadata, names) of pack_metadata. CorruptStream for other bytes."""
    cursor = _Cursor(np.frombuffer(data, np.uint8))
    metadata, names = cursor.metadata(), []
    while cursor.at < len(data):
        names.append(cursor.string())
    return metadata, names


def _flat(tree, prefix=""):
    if not isinstance(tree, dict):
        raise UnsupportedInput(
            f"expected a dict of tensors by name, got {type(tree).__name__}; name them as the "
            "model's GGUF files do"
        )
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        elif len(name.encode("utf-8", "surrogateescape")) > NAME_LIMIT:
            raise UnsupportedInput(
                f"expected names of at most {NAME_LIMIT} bytes, got {ascii(name)}; rename it"
            )
        else:
            yield name, value


def _stored(name: str, x: Any) -> tuple[tuple[int, ...], int]:
    """(shape, number of the kind)."""
    if isinstance(x, Leaf) and not isinstance(x, QTensor):
        raise UnsupportedInput(
            f"expected arrays, GGUFBlocks or QTensors, got a {type(x).__name__} in {ascii(name)}; "
            "hand over leaf.dense(), or round that by round_to_gguf(x, 'Q4_K')"
        )
    if isinstance(x, QTensor):
        try:
            return x.shape, NUMBERS[kind_of(x)]
        except UnsupportedInput as error:
            raise UnsupportedInput(f"{ascii(name)}: {error}") from None
    if isinstance(x, GGUFBlocks):
        return x.shape, NUMBERS[x.kind]
    x = np.asarray(x)
    number = next((n for n, dtype in PLAIN.items() if dtype == x.dtype), None)
    if number is None or not 1 <= x.ndim <= RANK_LIMIT or not x.size:
        kinds = ", ".join(dtype.name for dtype in PLAIN.values())
        raise UnsupportedInput(
            f"expected values in 1 to {RANK_LIMIT} axes of {kinds}, got {x.dtype} {x.shape} in "
            f"{ascii(name)}; cast or reshape it"
        )
    return x.shape, number


def _u32(n: int) -> bytes:
    return n.to_bytes(4, "little")


def _u64(n: int) -> bytes:
    return n.to_bytes(8, "little")


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return _u64(len(data)) + data


def _value(key: str, value: Any, depth: int) -> tuple[int, bytes]:
    """(type, bytes) of a value of the metadata."""
    if isinstance(value, str):
        return STRING, _string(value)
    if isinstance(value, list | tuple) and depth < DEPTH_LIMIT:
        if all(type(x) in (bool, int, float) for x in value) and value:
            dtypes = [_typed(x).dtype for x in value]
            return _value(key, np.asarray(value, np.result_type(*dtypes)), depth)
        done = [_value(key, x, depth + 1) for x in value]
        kinds = {number for number, _ in done} or {STRING}
        if len(kinds) == 1:
            data = b"".join(data for _, data in done)
            return ARRAY, _u32(kinds.pop()) + _u64(len(done)) + data
    if type(value) in (bool, int, float) and -(1 << 63) <= value < 1 << 64:
        value = _typed(value)
    if isinstance(value, np.generic | np.ndarray) and value.ndim < 2:
        number = next((n for n, dtype in TYPES.items() if value.dtype == dtype), None)
        if number is not None:
            data = np.asarray(value).astype(value.dtype.newbyteorder("<")).tobytes()
            return (ARRAY, _u32(number) + _u64(value.size) + data) if value.ndim else (number, data)
    raise UnsupportedInput(
        f"expected numbers, strings and lists of one type in the metadata, got "
        f"{type(value).__name__} in {ascii(key)[:60]}; convert or drop it"
    )


def _typed(value: Any) -> np.generic:
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, float):
        return np.float32(value)
    narrow, wide = (np.uint32, np.uint64) if value >= 0 else (np.int32, np.int64)
    return narrow(value) if -(1 << 31) <= value < 1 << 32 else wide(value)


def _bytes(path: str | os.PathLike[str]) -> np.ndarray:
    return np.memmap(path, np.uint8, "r") if os.path.getsize(path) else np.zeros(0, np.uint8)


class _Cursor:
    """A place in a file, which it never leaves."""

    def __init__(self, data: np.ndarray):
        self.data, self.at = memoryview(data), 0  # whose slices are the cheaper ones

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            _refuse(f"{len(self.data) - self.at} bytes where {count} should follow")
        self.at += count
        return bytes(self.data[self.at - count : self.at])

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def string(self) -> str:
        return self.take(self.number(8)).decode("utf-8", "surrogateescape")

    def counted(self, least: int) -> int:
        """A count of things of at least so many bytes each, which must be there."""
        count = self.number(8)
        if count * least > len(self.data) - self.at:
            _refuse(f"a count of {count} in {len(self.data) - self.at} bytes")
        return count

    def metadata(self) -> dict[str, Any]:
        """All of it, of one key each."""
        found: dict[str, Any] = {}
        for _ in range(self.counted(8 + 4 + 1)):
            key = self.string()
            if key in found:
                _refuse(f"{ascii(key)[:60]} twice")
            found[key] = self.value(self.number(4), 0)
        return found

    def value(self, number: int, depth: int) -> Any:
        if number in TYPES:
            kind = np.dtype(TYPES[number])
            return self.numbers(kind, 1)[0]
        if number == STRING:
            return self.string()
        if number != ARRAY or depth > DEPTH_LIMIT:
            _refuse(f"a value of type {number}, {depth} arrays deep")
        inner = self.number(4)
        if inner in TYPES:
            kind = np.dtype(TYPES[inner])
            return self.numbers(kind, self.counted(kind.itemsize))
        return [self.value(inner, depth + 1) for _ in range(self.counted(8))]

    def numbers(self, kind: np.dtype, count: int) -> np.ndarray:
        raw = np.frombuffer(self.take(count * kind.itemsize), kind.newbyteorder("<"))
        if kind.kind == "b" and (raw.view(np.uint8) > 1).any():
            _refuse("a bool that is neither 0 nor 1")
        return raw.astype(kind)


def _refuse(got: str):
    raise CorruptStream(f"expected a GGUF file, got {got}; fetch the file again")


def _check_alignment(alignment: int, error: type[Exception]) -> None:
    if not 8 <= alignment <= LARGEST_ALIGNMENT or alignment & (alignment - 1):
        raise error(
            f"expected an alignment from 8 to {LARGEST_ALIGNMENT}, a power of two, got {alignment};"
            " leave general.alignment out for 32"
        )


def _header(data: np.ndarray) -> tuple[dict[str, Any], list[_Entry]]:
    """(metadata, where each tensor lies), all checked against the size of the file."""
    cursor = _Cursor(data)
    if cursor.take(4) != MAGIC:
        _refuse("another beginning")
    if (version := cursor.number(4)) not in VERSIONS:
        raise UnsupportedInput(
            f"expected GGUF of version {VERSIONS[0]} or {VERSIONS[1]}, little-endian, got "
            f"{version}; convert it with the tool that wrote it"
        )
    count = cursor.counted(8 + 4 + 4 + 8)
    metadata = cursor.metadata()
    alignment = metadata.get("general.alignment", np.uint32(ALIGNMENT))
    if not isinstance(alignment, np.integer):
        _refuse("an alignment that is no number")
    _check_alignment(int(alignment), CorruptStream)
    rows = [_row(cursor) for _ in range(count)]
    first = cursor.at + -cursor.at % int(alignment)
    at, entries, names = 0, [], set()
    for name, shape, number, offset in rows:
        size = _nbytes(name, shape, number)
        if offset != at or name in names or first + at + size > len(data):
            _refuse(f"{ascii(name)[:60]} of {size} bytes at {offset}, after {at}, or twice")
        names.add(name)
        entries.append(_Entry(name, shape, number, first + at, first + at + size))
        at += size + -size % int(alignment)
    end = entries[-1].end if entries else cursor.at
    if len(data) - end >= int(alignment) or data[end:].any():
        _refuse(f"{len(data) - end} bytes after the last tensor")
    return metadata, entries


def _row(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name, rank = cursor.string(), cursor.number(4)
    if not 1 <= rank <= RANK_LIMIT:
        _refuse(f"{rank} axes in {ascii(name)[:60]}")
    shape = tuple(cursor.number(8) for _ in range(rank))[::-1]
    if 0 in shape:
        _refuse(f"no values in {ascii(name)[:60]}")
    return name, shape, cursor.number(4), cursor.number(8)


def _nbytes(name: str, shape: tuple[int, ...], number: int) -> int:
    if number in PLAIN:
        return math.prod(shape) * PLAIN[number].itemsize
    if number not in NAMES:
        raise UnsupportedInput(
            f"expected a kind of tensor among {', '.join(NAMES.values())}, got {number} in "
            f"{ascii(name)[:60]}; convert the file with the tool that wrote it"
        )
    values, nbytes = block_shape(NAMES[number])
    if shape[-1] % values:
        _refuse(f"{shape} in blocks of {values}")
    return math.prod(shape) // values * nbytes
