"""What both versions of a .jxc file are framed with: names, varints, JSON, checked reads.

Integers are little-endian; a varint holds 7 bits per byte, low bits first, in the fewest bytes.
JSON is compact ASCII, shallow, of finite numbers and 64-bit integers. This needs the standard
library only: bytes from a stranger are judged here before anything else sees them.
"""

import json
import math
import re
from typing import Any, NoReturn

from jaxcomp.base import CorruptStream, JaxcompError, UnsupportedInput

MAGIC = b"\x89JXC"
# A photo's header is tens of bytes and a checkpoint's shapes are tens of kilobytes; above this a
# "header" is somebody's attempt to make the reader parse.
HEADER_LIMIT = 1 << 16
NAME_LIMIT = 32
# Codecs write flat headers. Eight levels leave room for a tree of shapes, none to exhaust a stack.
DEPTH_LIMIT = 8

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
# Without steps back, for which a long string would take a hundred times its memory.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def corrupt(message: str) -> NoReturn:
    """Raise CorruptStream, with what to do."""
    raise CorruptStream(f"{message}; fetch or write the file again")


def name_bytes(name: str) -> bytes:
    """A name as it stands in a file; check_names has seen it."""
    return bytes([len(name)]) + name.encode("ascii")


def varint(value: int) -> bytes:
    """A count or length, in the fewest bytes."""
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def check_names(names: list[str]) -> None:
    """UnsupportedInput for names that no file may hold."""
    for name in names:
        if not (_NAME.fullmatch(name) and len(name) <= NAME_LIMIT):
            raise UnsupportedInput(
                f"a codec or section name is 1 to {NAME_LIMIT} of a-z 0-9 _ . -, got {name!r}"
            )


def version_of(head: bytes) -> int:
    """The version of the .jxc file that begins with these five bytes; CorruptStream for others."""
    magic = head[: len(MAGIC)]
    if magic != MAGIC:
        corrupt(f"not a .jxc file: expected it to begin with {MAGIC!r}, got {magic!r}")
    return Cursor(head[len(MAGIC) :]).take(1, "the version")[0]


def json_problem(value: Any, limit: int = DEPTH_LIMIT) -> str | None:
    """What keeps a header from being written or believed, or None."""
    open_ = [iter((value,))]  # no recursion: an index is deeper than some stacks
    while open_:
        x = next(open_[-1], open_)
        if x is open_:
            open_.pop()
        elif isinstance(x, (dict, list)):
            if len(open_) > limit:
                return f"it is nested more than {limit} deep"
            if isinstance(x, dict) and any(not isinstance(key, str) for key in x):
                return "its keys must be strings"
            open_.append(iter(x.values() if isinstance(x, dict) else x))
        elif isinstance(x, bool) or x is None or isinstance(x, str):
            continue
        elif isinstance(x, int):
            if abs(x) >= 1 << 63:
                return "an integer is outside 64 bits"
        elif isinstance(x, float):
            if not math.isfinite(x):
                return "a number is not finite"
        else:
            return f"{type(x).__name__} is not a JSON type"
    return None


class Cursor:
    """Bounds-checked reads from the front of a file."""

    def __init__(self, data: bytes):
        self.data = data
        self.at = 0

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes; `what` names them in errors."""
        if count > len(self.data) - self.at:
            corrupt(
                f"expected {count} bytes of {what} at byte {self.at}, "
                f"got {len(self.data) - self.at}: truncated, or a false length"
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self, what: str) -> int:
        """The next varint, below 2**63."""
        value = 0
        for position in range(9):  # 63 bits: no length reaches further
            byte = self.take(1, what)[0]
            value |= (byte & 127) << 7 * position
            if byte < 128:
                if byte == 0 and position:
                    corrupt(f"{what} is padded with zeros")
                return value
        corrupt(f"{what} runs past 63 bits")

    def name(self, what: str) -> str:
        """The next name."""
        raw = self.take(self.take(1, what)[0], what)
        text = raw.decode("latin-1")
        if not (_NAME.fullmatch(text) and len(text) <= NAME_LIMIT):
            corrupt(f"{what} is 1 to {NAME_LIMIT} of a-z 0-9 _ . -, got {ascii(raw[:40])}")
        return text


def parse_json(text: bytes, limit: int = DEPTH_LIMIT, what: str = "header") -> dict[str, Any]:
    """A header's JSON: ASCII, an object, shallow, without NaN, huge integers or repeated keys."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            corrupt(f"the {what} repeats a key")
        return dict(pairs)

    def integer(digits: str) -> int:
        if len(digits) > 20:
            corrupt(f"the {what} holds an integer outside 64 bits")
        return int(digits)

    def constant(name: str) -> NoReturn:
        corrupt(f"the {what} holds {name}, which is not JSON")

    depth = 0
    for bracket in _STRING.sub(b"", text).translate(None, _NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > limit:
            corrupt(f"the {what} is nested more than {limit} deep")
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
        corrupt(f"the {what} is not JSON: {error}")
    if not isinstance(header, dict):
        corrupt(f"the {what} must be a JSON object, got {type(header).__name__}")
    problem = json_problem(header, limit)
    if problem:
        corrupt(f"the {what} cannot be believed: {problem}")
    if json_bytes(header) != text:
        corrupt(f"the {what} is not in compact form")
    return header


def json_bytes(header: dict[str, Any]) -> bytes:
    """The one way to write a header."""
    return json.dumps(header, separators=(",", ":"), allow_nan=False).encode("ascii")
