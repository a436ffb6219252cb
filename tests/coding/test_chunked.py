"""The .jxc file of many arrays: chunks come back one by one, and nothing else is believed."""

import hashlib
import io
import os
import random
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import pytest

import jaxcomp as jc
from jaxcomp.coding import chunked

GOLDEN = Path(__file__).parent.parent / "golden" / "chunked_v2.jxc"
HEADER = {"version": 1, "note": "x"}
CHUNKS = [b"first", b"", bytes(range(256)) * 3]
INDEX = {"arrays": [["w", [2, 3]]], "deep": [[[[[[[[[[[]]]]]]]]]]]}


def written(chunks=CHUNKS, header=HEADER, index=INDEX, codec="toy") -> bytes:
    file = io.BytesIO()
    writer = chunked.Writer(file, codec, header)
    assert [writer.add(chunk) for chunk in chunks] == list(range(len(chunks)))
    assert writer.finish(index) == len(file.getvalue())
    return file.getvalue()


def forge(plain: bytes, chunks=b"", *, length=None) -> bytes:
    """A file with an index of one's own, and fitting checksums."""
    data = zlib.compress(plain)
    start = written([])[: 5 + 4 + 1 + 24 + 4]
    crc = zlib.crc32(data).to_bytes(4, "little")
    size = len(data) if length is None else length
    return start + chunks + data + size.to_bytes(8, "little") + crc + b"CXJ\x89"


def refused(data: bytes, match: str | None = None) -> None:
    with pytest.raises(jc.CorruptStream, match=match):
        file = chunked.Reader(io.BytesIO(data))
        for number in range(len(file.lengths)):
            file.chunk(number)


def test_round_trip_and_golden_bytes(tmp_path):
    data = written()
    file = chunked.Reader(io.BytesIO(data))
    assert (file.codec, file.header, file.index) == ("toy", HEADER, INDEX)
    assert file.lengths == list(map(len, CHUNKS)) and file.nbytes == len(data)
    assert [file.chunk(i) for i in (2, 0, 1)] == [CHUNKS[i] for i in (2, 0, 1)]
    assert file.sha256() == hashlib.sha256(data).hexdigest()
    # The bytes before the index, which zlib's version may deflate otherwise, never change.
    golden = GOLDEN.read_bytes()
    stop = data.index(CHUNKS[2]) + len(CHUNKS[2])
    assert golden[:stop] == data[:stop]
    (tmp_path / "x.jxc").write_bytes(golden)
    with chunked.Reader(tmp_path / "x.jxc") as file:
        assert (file.header, file.index, file.chunk(2)) == (HEADER, INDEX, CHUNKS[2])


def test_layout_by_hand():
    head = b"\x89JXC\x02\x03toy\x0d" + b'{"version":1}'
    index = b"\x02\x05\x00" + zlib.crc32(b"hello").to_bytes(4, "little") + bytes(4) + b'{"a":1}'
    data = written([b"hello", b""], {"version": 1}, {"a": 1})
    assert data.startswith(head + zlib.crc32(head).to_bytes(4, "little") + b"hello")
    length = int.from_bytes(data[-16:-8], "little")
    assert zlib.decompress(data[-16 - length : -16]) == index and data[-4:] == b"CXJ\x89"


def test_a_pipe_is_enough_to_write():
    code = (
        "import sys; from jaxcomp.coding import chunked; w = chunked.Writer(sys.stdout.buffer, "
        "'toy', {}); w.add(b'abc'); w.finish({}); "
        "print([m for m in ('jax', 'numpy') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert chunked.Reader(io.BytesIO(done.stdout)).chunk(0) == b"abc"
    assert done.stderr == b"[]\n"


def test_flipped_bits_and_truncations_are_seen():
    data = written([b"some bytes", b"and more"], {}, {"a": [1]})
    for bit in range(0, 8 * len(data), 5):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(jc.JaxcompError):
            file = chunked.Reader(io.BytesIO(flipped))
            assert [file.chunk(i) for i in range(2)]
    for size in range(0, len(data), 3):
        refused(data[:size])
    refused(data + b"\0", "truncated")


LIES = {
    "many chunks": (b"\xff\xff\xff\xff\x7f{}", "chunks, got one of"),
    "huge chunk": (b"\x01" + b"\xff" * 8 + b"\x7f" + bytes(4) + b"{}", "false lengths"),
    "short chunks": (b"\x01\x02" + bytes(4) + b"{}", "false lengths"),
    "no sums": (b"\x01\x03", "got one of 2 bytes"),
    "no JSON": (b"\x01\x03" + bytes(4), "not JSON"),
    "deep": (b"\x01\x03" + bytes(4) + b'{"a":' + b"[" * 999 + b"]" * 999 + b"}", "nested"),
    "no object": (b"\x01\x03" + bytes(4) + b"[1]", "must be a JSON object"),
    "inflates": (bytes(chunked.INDEX_LIMIT + 9), "got more or less"),
}


@pytest.mark.parametrize("name", LIES)
def test_lying_indices_are_refused_without_allocating(name):
    plain, message = LIES[name]
    data = forge(plain, b"abc")
    tracemalloc.start()
    try:
        refused(data, message)
        assert tracemalloc.get_traced_memory()[1] < 2.1 * chunked.INDEX_LIMIT  # zlib joins pieces
    finally:
        tracemalloc.stop()


def test_lengths_of_the_index_are_held_to_the_file(tmp_path):
    for length in (0, 5, 1 << 40, 1 << 63):
        refused(forge(b"\0{}", length=length))
    path = tmp_path / "big.jxc"  # sparse: an end of its own, and nothing before it
    path.write_bytes(written())
    os.truncate(path, 1 << 36)
    with open(path, "r+b") as file:
        file.seek(-16, 2)
        file.write((1 << 35).to_bytes(8, "little") + bytes(4) + b"CXJ\x89")
    with pytest.raises(jc.CorruptStream, match="expected an index of at most"):
        chunked.Reader(path)


def test_mutated_files_raise_named_errors():
    data, draw = written([os.urandom(50), bytes(90)]), random.Random(5)
    for _ in range(200):
        other = bytearray(data)
        for _ in range(draw.choice((1, 2, 8))):
            other[draw.randrange(len(other))] = draw.randrange(256)
        at = draw.randrange(len(other))
        del other[at : at + draw.choice((0, 0, 1, 9))]
        try:
            file = chunked.Reader(io.BytesIO(other))
            for number in range(len(file.lengths)):
                file.chunk(number)
        except jc.JaxcompError:
            pass


def test_a_small_file_has_no_large_index():
    index = {"a": [[]] * 400_000}  # deflated to a thousandth it would be a trap
    data = written([], index=index)
    assert len(data) > 1_200_000 and chunked.Reader(io.BytesIO(data)).index == index
    plain = b"\0" + chunked.json_bytes(index)
    assert len(plain) > chunked.FREE
    refused(forge(plain), "expected one index of at most")


def test_what_cannot_be_read_is_not_written():
    for header in ({"a": float("nan")}, {"a": "x" * 70000}, {"a": [[[[[[[[1]]]]]]]]}):
        with pytest.raises(jc.UnsupportedInput, match="header cannot be written"):
            written(header=header)
    with pytest.raises(jc.UnsupportedInput, match="index cannot be written"):
        written(index={"a": 1 << 64})
    with pytest.raises(jc.UnsupportedInput, match="index of at most"):
        written(index={"a": "x" * chunked.INDEX_LIMIT})
    with pytest.raises(jc.UnsupportedInput, match="a-z 0-9"):
        written(codec="../x")
    with pytest.raises(jc.UnsupportedInput, match="version 2, of many arrays, got version 1"):
        chunked.Reader(io.BytesIO(jc.coding.container.pack("toy", {}, {})))
