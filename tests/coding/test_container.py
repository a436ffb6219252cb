"""The .jxc container: what is packed comes back, and nothing else is believed."""

import io
import json
import os
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import pytest

import jaxcomp as jc
from jaxcomp.coding import container

GOLDEN = Path(__file__).parent.parent / "golden" / "container_v1.jxc"
HEADER = {"quality": 50, "tables": "00c0ffee", "shape": [512, 768, 3], "gain": 0.5, "on": True}
SECTIONS = {"c": bytes(range(256)) * 2, "empty": b""}


def varint(value: int) -> bytes:
    out = []
    while value > 127:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def forge(header=b"{}", table=(), payload=b"", *, codec=b"dct", count=None, length=None) -> bytes:
    """A container written by hand, with a fitting header CRC, true or not."""
    data = b"\x89JXC\x01" + bytes([len(codec)]) + codec
    data += varint(len(header) if length is None else length) + header
    data += varint(len(table) if count is None else count)
    for name, size, crc in table:
        data += bytes([len(name)]) + name + varint(size) + crc.to_bytes(4, "little")
    return data + zlib.crc32(data).to_bytes(4, "little") + payload


def test_round_trip_and_golden_bytes():
    data = container.pack("dct", HEADER, SECTIONS)
    assert container.unpack(data) == container.Container(1, "dct", HEADER, SECTIONS)
    assert list(container.unpack(data).sections) == list(SECTIONS)
    # The file in tests/golden must be read, and written, for as long as version 1 exists.
    assert data == GOLDEN.read_bytes()


def test_layout_by_hand():
    assert container.pack("x", {"a": 1}, {"b": b"hello"}) == forge(
        b'{"a":1}', [(b"b", 5, zlib.crc32(b"hello"))], b"hello", codec=b"x"
    )


def test_overhead_of_a_photo_stays_small():
    header = {"quality": 50, "tables": "00c0ffee", "shape": [512, 768, 3]}
    overhead = len(container.pack("dct", header, {"c": bytes(15000)})) - 15000
    assert overhead <= 62  # of 15000, 0.4 %


def test_every_bit_flip_and_every_truncation_is_seen():
    data = container.pack("dct", {"shape": [3, 5, 3]}, {"a": b"some bytes", "b": b"and more"})
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(jc.CorruptStream):
            container.unpack(bytes(flipped))
    for size in range(len(data)):
        with pytest.raises(jc.CorruptStream):
            container.unpack(data[:size])
    with pytest.raises(jc.CorruptStream, match="follows the last section"):
        container.unpack(data + b"\0")


LIES = {
    "huge section": (dict(table=[(b"c", 2**63 - 1, 0)]), "truncated, or a false length"),
    "many huge sections": (dict(table=[(b"%d" % i, 2**62, 0) for i in range(1024)]), "false"),
    "huge header": (dict(length=2**62), "at most 65536 bytes"),
    "section count": (dict(count=2**40), "at most 1024 sections"),
    "more sections than written": (dict(count=7), "truncated"),
    "endless varint": (dict(header=b"", table=[(b"c", 2**70, 0)]), "past 63 bits"),
    "same name twice": (dict(table=[(b"c", 0, 0)] * 2), "one name"),
    "name with a newline": (dict(table=[(b"c\n", 0, 0)]), "a-z 0-9"),
    "codec name of an escape sequence": (dict(codec=b"\x1b[31m"), "a-z 0-9"),
    "NaN": (dict(header=b'{"a":NaN}'), "not JSON"),
    "infinity": (dict(header=b'{"a":1e999}'), "not finite"),
    "huge integer": (dict(header=b'{"a":%s}' % (b"9" * 5000)), "outside 64 bits"),
    "integer of 64 bits": (dict(header=b'{"a":9223372036854775808}'), "outside 64 bits"),
    "deep": (dict(header=b'{"a":' + b"[" * 9000 + b"]" * 9000 + b"}"), "nested"),
    "deep behind a string": (dict(header=b'{"a\\"]":' + b"[" * 50 + b"]" * 50 + b"}"), "nested"),
    "repeated key": (dict(header=b'{"a":1,"a":2}'), "repeats a key"),
    "long form of a short key": (dict(header=b'{"shape":[1,1],"s":[2,2]}'), "one letter"),
    "no object": (dict(header=b"[1]"), "must be a JSON object"),
    "no JSON": (dict(header=b"{"), "not JSON"),
    "no ASCII": (dict(header='{"ä":1}'.encode()), "not JSON"),
    "UTF-16": (dict(header='{"a":1}'.encode("utf-16")), "not JSON"),
}


@pytest.mark.parametrize("name", LIES)
def test_lying_headers_are_refused_without_allocating(name):
    parts, message = LIES[name]
    data = forge(**parts)
    tracemalloc.start()
    try:
        with pytest.raises(jc.CorruptStream, match=message):
            container.unpack(data)
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


def test_padded_varint_wrong_version_and_wrong_magic():
    good = forge()
    at = 5 + 4  # the header length 2, as one byte
    assert good[at] == 2
    padded = good[:at] + b"\x82\x00" + good[at + 1 : -4]
    with pytest.raises(jc.CorruptStream, match="padded with zeros"):
        container.unpack(padded + zlib.crc32(padded).to_bytes(4, "little"))
    with pytest.raises(jc.CorruptStream, match="version 3, this jaxcomp reads version 1"):
        container.unpack(good[:4] + b"\x03" + good[5:])
    with pytest.raises(jc.UnsupportedInput, match="open it with jaxcomp.io.open_tensors"):
        container.unpack(good[:4] + b"\x02" + good[5:])
    for junk in (b"", b"\x89", b"\x89PNG\r\n", b"JXC\x01", bytes(1000)):
        with pytest.raises(jc.CorruptStream, match="not a .jxc file"):
            container.unpack(junk)


@pytest.mark.parametrize(
    "header",
    [
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": 1 << 63},
        {"a": b"bytes"},
        {"a": [[[[[[[[1]]]]]]]]},
        {"s": 1},
        {"a": "x" * 70000},
    ],
)
def test_pack_refuses_what_unpack_would(header):
    with pytest.raises(jc.UnsupportedInput):
        container.pack("dct", header, {})


@pytest.mark.parametrize("name", ["", "A", "a b", "é", "x" * 33, "../x"])
def test_pack_refuses_names(name):
    with pytest.raises(jc.UnsupportedInput, match="a-z 0-9"):
        container.pack(name, {}, {})
    with pytest.raises(jc.UnsupportedInput, match="a-z 0-9"):
        container.pack("dct", {}, {name: b""})


def test_read_takes_what_the_file_says_and_no_more(tmp_path):
    data = container.pack("dct", HEADER, {"c": os.urandom(300_000)})
    path = tmp_path / "x.jxc"
    path.write_bytes(data)
    assert container.read(path) == container.unpack(data)
    assert container.read(io.BytesIO(data)) == container.unpack(data)
    path.write_bytes(data[:-1])
    with pytest.raises(jc.CorruptStream, match="truncated"):
        container.read(path)
    # A pipe that never ends is left alone after one byte too many.
    endless = io.BytesIO(data + bytes(1 << 20))
    with pytest.raises(jc.CorruptStream, match="follows the last section"):
        container.read(endless)
    assert endless.tell() == len(data) + 1


def test_a_sparse_file_of_gigabytes_is_refused_unread(tmp_path):
    path = tmp_path / "big.jxc"
    path.write_bytes(forge(table=[(b"c", 5, 0)]))
    os.truncate(path, 1 << 36)
    tracemalloc.start()
    with pytest.raises(jc.CorruptStream, match="follows"):
        container.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


def test_imports_without_jax_or_numpy():
    code = (
        "import sys, jaxcomp, jaxcomp.coding.container, jaxcomp.base; "
        "print([m for m in ('jax', 'numpy', 'flax') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


def test_headers_survive_as_json(tmp_path):
    header = {"text": '\ud800 " \\ [{', "list": [1, -2.5, None, False, {"deep": []}]}
    data = container.pack("dct", header, {})
    assert container.unpack(data).header == json.loads(json.dumps(header)) == header


def test_a_header_that_pack_would_write_otherwise_is_refused():
    data = container.pack("toy", {"shape": [1]}, {})
    padded = data.replace(b'{"s":[1]}', b'{"s": [1]}').replace(b"\x09{", b"\x0a{")
    padded = padded[:-4] + zlib.crc32(padded[:-4]).to_bytes(4, "little")
    with pytest.raises(jc.CorruptStream, match="compact form"):
        container.unpack(padded)
