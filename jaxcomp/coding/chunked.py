"""The .jxc file of many arrays, version 2: written front to back, read from its end, in pieces.

    magic      4 bytes   89 4A 58 43
    version    1 byte    2
    codec      1 byte length, then the name in ASCII
    header     varint length, then one JSON object in compact ASCII
    CRC32      of every byte above
    chunks     one after another
    index      deflated: varint count of chunks, the varint length of each, the CRC32 of each, and
               one JSON object in compact ASCII, which says what the chunks are
    trailer    16 bytes: u64 length of the deflated index, its CRC32, and 43 58 4A 89

Nothing that is written depends on what follows it, so a file of any size goes to a disk or a pipe
in the memory of a chunk; any chunk is read without the others. Integers and names are as in version
1 (container.py), which is the smaller file for one photo.

This file needs the standard library only, and imports without jax. Every length is compared with
the real size before anything of that length is allocated; CorruptStream for what no writer wrote.
"""

import hashlib
import os
import threading
import zlib
from io import BufferedIOBase
from typing import Any

from jaxcomp.base import UnsupportedInput
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

VERSION = 2
END = MAGIC[::-1]
TRAILER = 16
PREAMBLE_LIMIT = 5 + 1 + NAME_LIMIT + 3 + HEADER_LIMIT + 4
# An array takes some 100 bytes of JSON, a chunk 8: 300,000 arrays, or 15 TB in chunks of 4 MB.
INDEX_LIMIT = 1 << 25
# What is read of JSON takes up to 50 times its text: so a small file may not deflate a large index.
# Names, shapes and CRC32s deflate to a fifth; where more is saved, the index is stored.
INFLATION, FREE = 32, 1 << 20
DEPTH_LIMIT = 256  # of the index, which holds trees
_PIECE = 1 << 20


class Writer:
    """Chunks to a binary file that is only written, never read or sought."""

    def __init__(self, file: BufferedIOBase, codec: str, header: dict[str, Any]):
        """Write what comes first. The header must be JSON, small and shallow."""
        check_names([codec])
        problem = json_problem(header)
        text = b"" if problem else json_bytes(header)
        if problem or len(text) > HEADER_LIMIT:
            raise UnsupportedInput(
                f"the header cannot be written: {problem or f'it is {len(text)} bytes'}; "
                "put it in the index"
            )
        head = b"".join([MAGIC, bytes([VERSION]), name_bytes(codec), varint(len(text)), text])
        self._file = file
        self._lengths: list[int] = []
        self._sums: list[bytes] = []
        self.nbytes = 0
        self._write(head + zlib.crc32(head).to_bytes(4, "little"))

    def add(self, data: bytes) -> int:
        """Write one chunk; returns its number."""
        self._lengths.append(len(data))
        self._sums.append(zlib.crc32(data).to_bytes(4, "little"))
        self._write(data)
        return len(self._lengths) - 1

    def finish(self, index: dict[str, Any]) -> int:
        """Write what comes last; returns the bytes of the file."""
        if problem := json_problem(index, DEPTH_LIMIT):
            raise UnsupportedInput(f"the index cannot be written: {problem}")
        text = json_bytes(index)
        parts = [varint(len(self._lengths)), *map(varint, self._lengths), *self._sums, text]
        plain = b"".join(parts)
        if len(plain) > INDEX_LIMIT:
            raise UnsupportedInput(
                f"expected an index of at most {INDEX_LIMIT} bytes, got {len(plain)}; write "
                "several files"
            )
        data = zlib.compress(plain, 9)
        if len(plain) > most_plain(len(data)):
            data = zlib.compress(plain, 0)
        self._write(data)
        crc = zlib.crc32(data).to_bytes(4, "little")
        self._write(len(data).to_bytes(8, "little") + crc + END)
        return self.nbytes

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.nbytes += len(data)


class Reader:
    """A file of chunks, open: codec, header, index, and chunk(number) from any thread.

    Close it, or use it as a context. Raises CorruptStream for a file that no Writer made, as far as
    its frame goes; a chunk is checked when it is read.
    """

    def __init__(self, source: str | os.PathLike[str] | BufferedIOBase):
        """A path, or a binary file that can be sought, which stays open when this is closed."""
        owned = isinstance(source, (str, os.PathLike))
        self._file = open(source, "rb") if owned else source
        self._owned, self._lock = owned, threading.Lock()
        try:
            self.nbytes = self._file.seek(0, os.SEEK_END)
            self.codec, self.header, start = _preamble(self._at(0, PREAMBLE_LIMIT))
            plain, stop = self._index(start)
            self.lengths, self._sums, self.index = _parse_index(plain, stop - start)
        except BaseException:
            self.close()
            raise
        self._starts = [start]
        for length in self.lengths:
            self._starts.append(self._starts[-1] + length)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, if it was opened here."""
        if self._owned:
            self._file.close()

    def chunk(self, number: int) -> bytes:
        """One chunk, found as it was written. The caller has compared lengths[number] with what
        such a chunk can have."""
        data = self._at(self._starts[number], self.lengths[number])
        crc = int.from_bytes(self._sums[4 * number : 4 * number + 4], "little")
        if len(data) != self.lengths[number] or zlib.crc32(data) != crc:
            corrupt(
                f"chunk {number} is damaged: expected {self.lengths[number]} bytes of CRC32 "
                f"{crc:08x}, got {len(data)} of {zlib.crc32(data):08x}"
            )
        return data

    def is_at(self, path: str | os.PathLike[str]) -> bool:
        """Whether this file is what stands at path, which may be a link to it."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(path))
        except (OSError, AttributeError):  # there is none at path, or this one is in memory
            return False

    def sha256(self) -> str:
        """Of the whole file, read once from end to end, in hexadecimal digits."""
        hasher = hashlib.sha256()
        for start in range(0, self.nbytes, _PIECE):
            hasher.update(self._at(start, _PIECE))
        return hasher.hexdigest()

    def _at(self, start: int, count: int) -> bytes:
        with self._lock:  # the file has one position
            self._file.seek(start)
            return self._file.read(count)

    def _index(self, start: int) -> tuple[bytes, int]:
        """The index, inflated, and where it begins in the file."""
        room = self.nbytes - TRAILER - start
        trailer = self._at(self.nbytes - TRAILER, TRAILER) if room >= 0 else b""
        if trailer[-4:] != END:
            corrupt(f"expected the file to end with {END!r}, got {trailer[-4:]!r}: truncated")
        length = int.from_bytes(trailer[:8], "little")
        most = min(room, INDEX_LIMIT + (INDEX_LIMIT >> 10))  # what is stored grows a little
        if length > most:
            corrupt(f"expected an index of at most {most} bytes, got {length}")
        data = self._at(start + room - length, length)
        if zlib.crc32(data) != int.from_bytes(trailer[8:12], "little"):
            corrupt("the index is damaged: its CRC32 is another")
        inflate, limit = zlib.decompressobj(), most_plain(length)
        try:
            plain = inflate.decompress(data, limit + 1)
        except zlib.error as error:
            corrupt(f"the index does not inflate ({error})")
        if not inflate.eof or inflate.unused_data or len(plain) > limit:
            corrupt(f"expected one index of at most {limit} bytes, got more or less")
        return plain, start + room - length


def most_plain(deflated: int) -> int:
    """Bytes that an index of so many deflated ones may have."""
    return min(INDEX_LIMIT, FREE + INFLATION * deflated)


def _preamble(data: bytes) -> tuple[str, dict[str, Any], int]:
    """(codec, header, where the chunks begin)."""
    version = version_of(data)
    if version != VERSION:
        raise UnsupportedInput(
            f"expected a .jxc file of version {VERSION}, of many arrays, got version {version}; "
            "jaxcomp info says what it holds"
        )
    cursor = Cursor(data)
    cursor.at = len(MAGIC) + 1
    codec = cursor.name("the codec name")
    length = cursor.varint("the header length")
    if length > HEADER_LIMIT:
        corrupt(f"expected a header of at most {HEADER_LIMIT} bytes, got {length}")
    text = cursor.take(length, "header")
    expected = zlib.crc32(data[: cursor.at])
    if int.from_bytes(cursor.take(4, "the header CRC32"), "little") != expected:
        corrupt("the header is damaged: its CRC32 is another")
    return codec, parse_json(text), cursor.at


def _parse_index(plain: bytes, room: int) -> tuple[list[int], bytes, dict[str, Any]]:
    """(bytes of each chunk, their CRC32s, the JSON); chunks fill `room` bytes exactly."""
    cursor = Cursor(plain)
    count = cursor.varint("the count of chunks")
    if 5 * count > len(plain):
        corrupt(f"expected an index of {count} chunks, got one of {len(plain)} bytes")
    lengths = [cursor.varint("the length of a chunk") for _ in range(count)]
    if sum(lengths) != room:
        corrupt(f"expected chunks of {sum(lengths)} bytes, got {room}: truncated, or false lengths")
    sums = cursor.take(4 * count, "CRC32s of chunks")
    return lengths, sums, parse_json(plain[cursor.at :], DEPTH_LIMIT, "index")
