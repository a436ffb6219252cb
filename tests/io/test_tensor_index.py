"""What a file says of its arrays is held to its size before it is believed."""

import io

import pytest

import jaxcomp as jc
from jaxcomp.coding.chunked import Reader, Writer
from jaxcomp.io.tensor_index import read_rows

HEADER = {"tensors_version": 2, "chunk_nbytes": 64}
FIRST = {**HEADER, "tensors_version": 1}


def rows(entries, chunks, header=HEADER, codec="tensors"):
    file = io.BytesIO()
    writer = Writer(file, codec, header)
    for length in chunks:
        writer.add(bytes(length))
    writer.finish({"arrays": entries})
    return read_rows(Reader(file))


def test_what_is_written_is_read():
    found = rows([["w", "float32", [10, 3]], [None, "uint8", [5]], ["e", "int8", [0]]], [60, 60, 6])
    assert [(row.name, row.first, row.chunks) for row in found] == [
        ("w", 0, 2),
        (None, 2, 1),
        ("e", 3, 0),
    ]
    assert rows([["w", "int8", [3]]], [4], FIRST)[0].pool == 0


def test_arrays_that_share_a_chunk_know_where_it_ends():
    """Pools lie where they ended: of a dtype when the next one begins, and all at the end."""
    entries = [
        ["a", "int8", [5], 2],
        ["b", "float32", [2, 2], 2],
        ["c", "int8", [7, 2], 1],
        ["d", "uint8", [70]],
        ["e", "int8", [50], 2],
        ["f", "float32", [], 1],
        ["g", "uint8", []],
    ]
    found = rows(entries, [60, 1, 19, 1, 20, 50])
    assert [(row.name, row.first, row.chunks, row.start, row.pool) for row in found] == [
        ("a", 2, 1, 0, 19),
        ("b", 4, 1, 0, 5),
        ("c", 2, 1, 5, 19),
        ("d", 0, 2, 0, 0),
        ("e", 5, 1, 0, 50),
        ("f", 4, 1, 4, 5),
        ("g", 3, 1, 0, 0),
    ]


LIES = {
    "no list": (None, []),
    "no row": ([["w", "float32"]], []),
    "a name that is none": ([[3, "float32", [1]]], [5]),
    "negative": ([["w", "float32", [-1]]], []),
    "huge": ([["w", "float32", [1 << 40, 1 << 40, 0]]], []),
    "huge rank": ([["w", "float32", [1] * 40]], [5]),
    "more chunks than there are": ([["w", "float32", [1 << 47]]], [5]),
    "fewer": ([["w", "float32", [3]]], [5, 5]),
    "too long a chunk": ([["w", "uint8", [3]]], [3 + 65]),
    "an empty chunk": ([["w", "uint8", [3]]], [0]),
    "a pool that none began": ([["w", "uint8", [3], 1]], [3]),
    "of another dtype": ([["w", "uint8", [3], 2], ["v", "int8", [3], 1]], [3, 3]),
    "a pool that is too large": ([["w", "uint8", [60], 2], ["v", "uint8", [5], 1]], [65]),
    "an array that is": ([["w", "uint8", [65], 2]], [65]),
    "nothing that shares": ([["w", "uint8", [0], 2]], [1]),
    "another way to share": ([["w", "uint8", [3], 3]], [3]),
    "a way that is no number": ([["w", "uint8", [3], True]], [3]),
    "not to share": ([["w", "uint8", [3], 0]], [3]),
    "more than a row": ([["w", "uint8", [3], 2, 2]], [3]),
    "too long a pool": ([["w", "uint8", [3], 2], ["v", "uint8", [4], 1]], [7 + 65]),
    "a pool that is missing": ([["w", "uint8", [3], 2], ["v", "int8", [4], 2]], [7]),
    "one name twice": ([["w", "uint8", [0]]] * 2, []),
}


@pytest.mark.parametrize("name", LIES)
def test_lies_are_refused(name):
    with pytest.raises(jc.CorruptStream):
        rows(*LIES[name])


def test_the_first_version_shares_nothing():
    with pytest.raises(jc.CorruptStream):
        rows([["w", "uint8", [3], 2]], [3], FIRST)


def test_other_files_and_limits_are_named():
    with pytest.raises(jc.UnsupportedInput, match="dtype among"):
        rows([["w", "object", [1]]], [5])
    with pytest.raises(jc.UnsupportedInput, match="codec 'tensors', got 'toy'"):
        rows([], [], codec="toy")
    for version in (0, 3, "1", None):
        with pytest.raises(jc.UnsupportedInput, match="tensors of version 1 to 2, got"):
            rows([], [], {**HEADER, "tensors_version": version})
    for size in (8, 1 << 40, "4", None):
        with pytest.raises(jc.CorruptStream, match="expected chunks of 16 to"):
            rows([], [], {**HEADER, "chunk_nbytes": size})
