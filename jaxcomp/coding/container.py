"""The .jxc file: a little framing around a codec's sections, checked before anything is loaded.

    magic      4 bytes   89 4A 58 43 (0x89, then "JXC"; the high bit exposes 7-bit transports)
    version    1 byte    1
    codec      1 byte length, then the name in ASCII
    header     varint length, then one JSON object in compact ASCII
    sections   varint count, then for each: 1 byte length, name, varint length, CRC32 of its bytes
    CRC32      of every byte above
    payload    the sections' bytes, one after another, up to the last byte of the file

Integers are little-endian; a varint holds 7 bits per byte, low bits first, in the fewest bytes.
Keys that nearly every file carries travel as one letter (ALIASES): a photo at 0.3 bit per pixel is
15 kB, and every byte counts. "model" is a hash, of the parameters and coding tables that wrote the
file, as eight hexadecimal digits; "tables" is one of the tables alone, where they vary by file.

This file needs the standard library only, and imports without jax. A file from a stranger is judged
here first: every length is compared with the real size before anything of that length is allocated,
and whatever is not as written raises CorruptStream.
"""

import os
import stat
import zlib
from io import BufferedIOBase
from typing import Any, NamedTuple

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.coding.atomic import write_atomic as write_atomic
from jaxcomp.coding.framing import (
    HEADER_LIMIT,
    MAGIC,
    NAME_LIMIT,
    Cursor,
    check_names,
    corrupt,
    json_bytes,
    json_problem,
    name_bytes,
    parse_json,
    varint,
    version_of,
)

VERSION = 1
SECTION_LIMIT = 1024
PREAMBLE_LIMIT = (
    5 + 1 + NAME_LIMIT + 3 + HEADER_LIMIT + 2 + SECTION_LIMIT * (1 + NAME_LIMIT + 13) + 4
)
ALIASES = {"shape": "s", "quality": "q", "tables": "t", "model": "m"}

_CHUNK = 1 << 20


class Container(NamedTuple):
    """What a .jxc file holds."""

    version: int
    codec: str
    header: dict[str, Any]
    sections: dict[str, bytes]


class _Preamble(NamedTuple):
    """Everything before the payload, and where each section must lie."""

    codec: str
    header: dict[str, Any]
    table: list[tuple[str, int, int]]  # name, length, CRC32
    start: int
    stop: int


def pack(codec: str, header: dict[str, Any], sections: dict[str, bytes]) -> bytes:
    """The bytes of a .jxc file. The header must be JSON: finite numbers, integers below 2**63."""
    if len(sections) > SECTION_LIMIT:
        raise UnsupportedInput(
            f"a container holds at most {SECTION_LIMIT} sections, got {len(sections)}; "
            "join small sections into one"
        )
    check_names([codec, *sections])
    reserved = sorted(set(header) & set(ALIASES.values()))
    if reserved:
        raise UnsupportedInput(
            f"header keys {reserved} are reserved for {sorted(ALIASES)}; give yours a longer name"
        )
    problem = json_problem(header)
    if problem:
        raise UnsupportedInput(f"the header cannot be written: {problem}")
    short = {ALIASES.get(key, key): value for key, value in header.items()}
    text = json_bytes(short)
    if len(text) > HEADER_LIMIT:
        raise UnsupportedInput(
            f"the header is {len(text)} bytes, the limit is {HEADER_LIMIT}; put data in a section"
        )
    parts = [MAGIC, bytes([VERSION]), name_bytes(codec), varint(len(text)), text]
    parts.append(varint(len(sections)))
    for name, data in sections.items():
        parts += [name_bytes(name), varint(len(data)), zlib.crc32(data).to_bytes(4, "little")]
    preamble = b"".join(parts)
    return b"".join([preamble, zlib.crc32(preamble).to_bytes(4, "little"), *sections.values()])


def unpack(data: bytes) -> Container:
    """The contents of a .jxc file; CorruptStream for anything that pack did not write."""
    preamble = _parse(data[:PREAMBLE_LIMIT])
    _check_size(preamble, len(data))
    return _take(preamble, data)


def read(source: str | os.PathLike[str] | BufferedIOBase) -> Container:
    """unpack for a path or an open binary file, which reads no more than the file says it holds."""
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            return _read(file, _regular_size(file))
    return _read(source, None)


def _parse(data: bytes) -> _Preamble:
    """Read and judge everything before the payload; `data` may stop anywhere after it."""
    cursor = Cursor(data)
    version = version_of(data)
    if version == 2:
        raise UnsupportedInput(
            "the file is .jxc version 2, of many arrays, expected version 1, of one signal or tree "
            "of weights; open it with jaxcomp.io.open_tensors or jaxcomp info"
        )
    if version != VERSION:
        raise CorruptStream(
            f"the file is .jxc version {version}, this jaxcomp reads version {VERSION}; "
            "install the jaxcomp that wrote it, or fetch the file again if it is damaged"
        )
    cursor.at = len(MAGIC) + 1
    codec = cursor.name("the codec name")
    length = cursor.varint("the header length")
    if length > HEADER_LIMIT:
        corrupt(f"expected a header of at most {HEADER_LIMIT} bytes, got {length}")
    text = cursor.take(length, "header")
    count = cursor.varint("the section count")
    if count > SECTION_LIMIT:
        corrupt(f"expected at most {SECTION_LIMIT} sections, got {count}")
    table = []
    for _ in range(count):
        name = cursor.name("a section name")
        size = cursor.varint("a section length")
        table.append((name, size, int.from_bytes(cursor.take(4, "a section CRC32"), "little")))
    expected = zlib.crc32(data[: cursor.at])
    got = int.from_bytes(cursor.take(4, "the header CRC32"), "little")
    if got != expected:
        corrupt(f"the header is damaged: its CRC32 is {expected:08x}, the file says {got:08x}")
    if len({name for name, _, _ in table}) != count:
        corrupt("two sections have one name")
    stop = cursor.at + sum(size for _, size, _ in table)
    return _Preamble(codec, _parse_header(text), table, cursor.at, stop)


def _parse_header(text: bytes) -> dict[str, Any]:
    header = parse_json(text)
    long = {short: key for key, short in ALIASES.items()}
    if set(header) & set(ALIASES):
        corrupt("the header spells out a key that travels as one letter")
    return {long.get(key, key): value for key, value in header.items()}


def _check_size(preamble: _Preamble, size: int) -> None:
    if size < preamble.stop:
        corrupt(f"expected {preamble.stop} bytes, got {size}: truncated, or a false length")
    if size > preamble.stop:
        corrupt(f"expected {preamble.stop} bytes, got {size}: something follows the last section")


def _take(preamble: _Preamble, data: bytes) -> Container:
    sections, at = {}, preamble.start
    for name, length, crc in preamble.table:
        section = bytes(data[at : at + length])
        if zlib.crc32(section) != crc:
            corrupt(
                f"section {name!r} is damaged: its CRC32 is {zlib.crc32(section):08x}, "
                f"the file says {crc:08x}"
            )
        sections[name] = section
        at += length
    return Container(VERSION, preamble.codec, preamble.header, sections)


def _regular_size(file: BufferedIOBase) -> int | None:
    status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _read(file: BufferedIOBase, size: int | None) -> Container:
    """One chunk to learn what the file says of itself, then exactly that much and one byte more."""
    chunks = [file.read(PREAMBLE_LIMIT)]
    preamble = _parse(chunks[0])
    if size is not None:
        _check_size(preamble, size)
    left = preamble.stop + 1 - len(chunks[0])
    while left > 0 and (chunk := file.read(min(left, _CHUNK))):
        chunks.append(chunk)
        left -= len(chunk)
    data = b"".join(chunks)
    _check_size(preamble, len(data))
    return _take(preamble, data)
