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

import json
import math
import os
import re
import stat
import zlib
from io import BufferedIOBase
from typing import Any, NamedTuple, NoReturn

from jaxcomp.base import CorruptStream, JaxcompError, UnsupportedInput

MAGIC = b"\x89JXC"
VERSION = 1
# A photo's header is tens of bytes and a checkpoint's shapes are tens of kilobytes; above this a
# "header" is somebody's attempt to make the reader parse.
HEADER_LIMIT = 1 << 16
SECTION_LIMIT = 1024
NAME_LIMIT = 32
# Codecs write flat headers. Eight levels leave room for a tree of shapes, none to exhaust a stack.
DEPTH_LIMIT = 8
PREAMBLE_LIMIT = (
    5 + 1 + NAME_LIMIT + 3 + HEADER_LIMIT + 2 + SECTION_LIMIT * (1 + NAME_LIMIT + 13) + 4
)
ALIASES = {"shape": "s", "quality": "q", "tables": "t", "model": "m"}

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
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
    _check_names([codec, *sections])
    reserved = sorted(set(header) & set(ALIASES.values()))
    if reserved:
        raise UnsupportedInput(
            f"header keys {reserved} are reserved for {sorted(ALIASES)}; give yours a longer name"
        )
    problem = _header_problem(header, DEPTH_LIMIT)
    if problem:
        raise UnsupportedInput(f"the header cannot be written: {problem}")
    short = {ALIASES.get(key, key): value for key, value in header.items()}
    text = _header_text(short)
    if len(text) > HEADER_LIMIT:
        raise UnsupportedInput(
            f"the header is {len(text)} bytes, the limit is {HEADER_LIMIT}; put data in a section"
        )
    parts = [MAGIC, bytes([VERSION]), _name(codec), _varint(len(text)), text]
    parts.append(_varint(len(sections)))
    for name, data in sections.items():
        parts += [_name(name), _varint(len(data)), zlib.crc32(data).to_bytes(4, "little")]
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


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write data to path so that a reader, or a failure half way, sees the old file or the new one.

    The bytes go to a temporary file in the same folder, which then replaces the target. Links are
    followed, and what is no ordinary file (a pipe, /dev/null) is written directly.
    """
    target = os.path.realpath(path)
    mode = None
    if os.path.exists(target):
        mode = os.stat(target).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(21, "expected a file to write, got a folder", str(path))
        if not stat.S_ISREG(mode):
            with open(target, "wb") as file:
                file.write(data)
            return
    temporary = f"{target}.{os.urandom(4).hex()}.tmp"
    try:
        # 0o666 less the user's umask, as open() would create it.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(temporary, stat.S_IMODE(mode))
        os.replace(temporary, target)
    except BaseException as error:
        if os.path.exists(temporary):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename == temporary:
            error.filename = str(path)  # name what the user asked for
        raise


def _corrupt(message: str) -> NoReturn:
    raise CorruptStream(f"{message}; fetch or write the file again")


def _name(name: str) -> bytes:
    return bytes([len(name)]) + name.encode("ascii")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _check_names(names: list[str]) -> None:
    for name in names:
        if not (_NAME.fullmatch(name) and len(name) <= NAME_LIMIT):
            raise UnsupportedInput(
                f"a codec or section name is 1 to {NAME_LIMIT} of a-z 0-9 _ . -, got {name!r}"
            )


def _header_problem(value: Any, depth: int) -> str | None:
    """What keeps a header from being written or believed, or None."""
    if isinstance(value, (dict, list)):
        if depth == 0:
            return f"it is nested more than {DEPTH_LIMIT} deep"
        if isinstance(value, dict):
            if any(not isinstance(key, str) for key in value):
                return "its keys must be strings"
            value = list(value.values())
        return next((problem for v in value if (problem := _header_problem(v, depth - 1))), None)
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return None
    if isinstance(value, int):
        return None if abs(value) < 1 << 63 else "an integer is outside 64 bits"
    if isinstance(value, float):
        return None if math.isfinite(value) else "a number is not finite"
    return f"{type(value).__name__} is not a JSON type"


class _Cursor:
    """Bounds-checked reads from the front of a file."""

    def __init__(self, data: bytes):
        self.data = data
        self.at = 0

    def take(self, count: int, what: str) -> bytes:
        if count > len(self.data) - self.at:
            _corrupt(
                f"expected {count} bytes of {what} at byte {self.at}, "
                f"got {len(self.data) - self.at}: truncated, or a false length"
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self, what: str) -> int:
        value = 0
        for position in range(9):  # 63 bits: no length reaches further
            byte = self.take(1, what)[0]
            value |= (byte & 127) << 7 * position
            if byte < 128:
                if byte == 0 and position:
                    _corrupt(f"{what} is padded with zeros")
                return value
        _corrupt(f"{what} runs past 63 bits")

    def name(self, what: str) -> str:
        raw = self.take(self.take(1, what)[0], what)
        text = raw.decode("latin-1")
        if not (_NAME.fullmatch(text) and len(text) <= NAME_LIMIT):
            _corrupt(f"{what} is 1 to {NAME_LIMIT} of a-z 0-9 _ . -, got {ascii(raw[:40])}")
        return text


def _parse(data: bytes) -> _Preamble:
    """Read and judge everything before the payload; `data` may stop anywhere after it."""
    cursor = _Cursor(data)
    magic = data[: len(MAGIC)]
    if magic != MAGIC:
        _corrupt(f"not a .jxc file: expected it to begin with {MAGIC!r}, got {magic!r}")
    cursor.at = len(MAGIC)
    version = cursor.take(1, "the version")[0]
    if version != VERSION:
        raise CorruptStream(
            f"the file is .jxc version {version}, this jaxcomp reads version {VERSION}; "
            "install the jaxcomp that wrote it, or fetch the file again if it is damaged"
        )
    codec = cursor.name("the codec name")
    length = cursor.varint("the header length")
    if length > HEADER_LIMIT:
        _corrupt(f"expected a header of at most {HEADER_LIMIT} bytes, got {length}")
    text = cursor.take(length, "header")
    count = cursor.varint("the section count")
    if count > SECTION_LIMIT:
        _corrupt(f"expected at most {SECTION_LIMIT} sections, got {count}")
    table = []
    for _ in range(count):
        name = cursor.name("a section name")
        size = cursor.varint("a section length")
        table.append((name, size, int.from_bytes(cursor.take(4, "a section CRC32"), "little")))
    expected = zlib.crc32(data[: cursor.at])
    got = int.from_bytes(cursor.take(4, "the header CRC32"), "little")
    if got != expected:
        _corrupt(f"the header is damaged: its CRC32 is {expected:08x}, the file says {got:08x}")
    if len({name for name, _, _ in table}) != count:
        _corrupt("two sections have one name")
    stop = cursor.at + sum(size for _, size, _ in table)
    return _Preamble(codec, _parse_header(text), table, cursor.at, stop)


def _parse_header(text: bytes) -> dict[str, Any]:
    """The header's JSON: ASCII, an object, shallow, without NaN, huge integers or repeated keys."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            _corrupt("the header repeats a key")
        return dict(pairs)

    def integer(digits: str) -> int:
        if len(digits) > 20:
            _corrupt("the header holds an integer outside 64 bits")
        return int(digits)

    def constant(name: str) -> NoReturn:
        _corrupt(f"the header holds {name}, which is not JSON")

    depth = 0
    for bracket in re.findall(rb"[\[{}\]]", re.sub(rb'"(?:[^"\\]|\\.)*"', b"", text)):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEPTH_LIMIT:
            _corrupt(f"the header is nested more than {DEPTH_LIMIT} deep")
    try:
        header = json.loads(
            text.decode("ascii"),
            object_pairs_hook=unique,
            parse_int=integer,
            parse_constant=constant,
        )
    except JaxcompError:
        raise
    except ValueError as error:
        _corrupt(f"the header is not JSON: {error}")
    if not isinstance(header, dict):
        _corrupt(f"the header must be a JSON object, got {type(header).__name__}")
    problem = _header_problem(header, DEPTH_LIMIT)
    if problem:
        _corrupt(f"the header cannot be believed: {problem}")
    if _header_text(header) != text:
        _corrupt("the header is not in compact form")
    long = {short: key for key, short in ALIASES.items()}
    if set(header) & set(ALIASES):
        _corrupt("the header spells out a key that travels as one letter")
    return {long.get(key, key): value for key, value in header.items()}


def _header_text(header: dict[str, Any]) -> bytes:
    """The one way to write a header."""
    return json.dumps(header, separators=(",", ":"), allow_nan=False).encode("ascii")


def _check_size(preamble: _Preamble, size: int) -> None:
    if size < preamble.stop:
        _corrupt(f"expected {preamble.stop} bytes, got {size}: truncated, or a false length")
    if size > preamble.stop:
        _corrupt(f"expected {preamble.stop} bytes, got {size}: something follows the last section")


def _take(preamble: _Preamble, data: bytes) -> Container:
    sections, at = {}, preamble.start
    for name, length, crc in preamble.table:
        section = bytes(data[at : at + length])
        if zlib.crc32(section) != crc:
            _corrupt(
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
