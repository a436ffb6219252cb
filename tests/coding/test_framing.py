"""What files are framed with: what is written is read, and nothing else."""

import tracemalloc

import pytest

import jaxcomp as jc
from jaxcomp.coding import framing


def test_what_is_written_is_read():
    values = [0, 1, 127, 128, 300, 2**40, 2**63 - 1]
    data = b"".join(map(framing.varint, values)) + framing.name_bytes("dct-2.x_y")
    cursor = framing.Cursor(data)
    assert [cursor.varint("a count") for _ in values] == values
    assert cursor.name("a name") == "dct-2.x_y" and cursor.at == len(data)
    value = {"a": [1, 2.5, None, True, {"b": "\u20ac"}]}
    assert framing.parse_json(framing.json_bytes(value)) == value
    assert framing.version_of(b"\x89JXC\x07more") == 7


def test_the_depth_of_json_is_the_callers():
    deep = {"a": [[[[[[[[[1]]]]]]]]]}
    assert "nested more than 8" in framing.json_problem(deep)
    assert framing.json_problem(deep, 10) is None
    text = framing.json_bytes(deep)
    assert framing.parse_json(text, 10) == deep
    with pytest.raises(jc.CorruptStream, match="the index is nested more than 9"):
        framing.parse_json(text, 9, "index")


def test_strings_are_looked_over_in_little_memory():
    long = {"a[": "\\" * 9 + '"]' + "x" * 3_000_000 + "\u20ac" * 9 + "[" * 50}
    tracemalloc.start()
    try:
        assert framing.parse_json(framing.json_bytes(long), 1) == long
        assert tracemalloc.get_traced_memory()[1] < 8 * 3_000_000
    finally:
        tracemalloc.stop()


def test_what_no_writer_wrote_is_refused():
    for data in (b"", b"\x80", b"\x80\x00", b"\xff" * 9):
        with pytest.raises(jc.CorruptStream, match="a count"):
            framing.Cursor(data).varint("a count")
    for data in (b"", b"\x01", b"\x00", b"\x01A", b"\x21" + b"x" * 33):
        with pytest.raises(jc.CorruptStream, match="a name"):
            framing.Cursor(data).name("a name")
    for data in (b"", b"PK\3\4....", b"\x89JXC"):
        with pytest.raises(jc.CorruptStream):
            framing.version_of(data)
    with pytest.raises(jc.UnsupportedInput, match="a-z 0-9"):
        framing.check_names(["good", "Bad"])
