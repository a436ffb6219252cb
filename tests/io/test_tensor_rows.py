"""What a file says of its arrays is held to its size before it is believed."""

import io

import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.coding.chunked import Reader, Writer
from jaxcomp.io.tensor_rows import check_room, cut, make_row, read_rows

HEADER = {"tensors_version": 1, "chunk_nbytes": 64}


def rows(entries, chunks, header=HEADER, codec="tensors"):
    file = io.BytesIO()
    writer = Writer(file, codec, header)
    for length in chunks:
        writer.add(bytes(length))
    writer.finish({"arrays": entries})
    return read_rows(Reader(file))


def test_arrays_are_cut_into_whole_rows_where_one_fits():
    f32 = np.dtype(np.float32)
    assert cut((10, 3), f32, 64) == 15  # five rows
    assert cut((2, 5, 7), f32, 64) == 14  # 35 values do not fit: rows of 7
    assert cut((2, 100), f32, 64) == 16 and cut((), f32, 64) == 16  # anywhere
    assert cut((0, 3), f32, 64) == 15
    row = make_row("w", f32, (10, 3), 4, 64)
    assert (row.chunks, row.nbytes, row.block) == (2, 120, (-1, 3))
    assert make_row("w", f32, (2, 5, 7), 0, 64).block == (-1, 7)
    assert make_row("w", f32, (2, 100), 0, 64).block == (-1,)
    with pytest.raises(jc.UnsupportedInput, match="w: expected a dtype among"):
        make_row("w", np.dtype("U3"), (2,), 0, 64)


def test_what_is_written_is_read():
    found = rows([["w", "float32", [10, 3]], [None, "uint8", [5]], ["e", "int8", [0]]], [60, 60, 6])
    assert [(row.name, row.first, row.chunks) for row in found] == [
        ("w", 0, 2),
        (None, 2, 1),
        ("e", 3, 0),
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
    "one name twice": ([["w", "uint8", [0]]] * 2, []),
}


@pytest.mark.parametrize("name", LIES)
def test_lies_are_refused(name):
    with pytest.raises(jc.CorruptStream):
        rows(*LIES[name])


def test_other_files_and_limits_are_named():
    with pytest.raises(jc.UnsupportedInput, match="dtype among"):
        rows([["w", "object", [1]]], [5])
    with pytest.raises(jc.UnsupportedInput, match="codec 'tensors', got 'toy'"):
        rows([], [], codec="toy")
    with pytest.raises(jc.UnsupportedInput, match="tensors of version 1, got 2"):
        rows([], [], {**HEADER, "tensors_version": 2})
    for size in (8, 1 << 40, "4", None):
        with pytest.raises(jc.CorruptStream, match="expected chunks of 16 to"):
            rows([], [], {**HEADER, "chunk_nbytes": size})
    check_room(5, 5)
    with pytest.raises(
        jc.UnsupportedInput, match=r"at most 5 bytes of arrays, got 6; .*max_nbytes"
    ):
        check_room(6, 5)
