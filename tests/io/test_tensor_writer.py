"""Arrays are coded ahead by threads, written in order, and few are in the making."""

import io
import threading

import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.io import tensor_writer
from jaxcomp.io.tensor_writer import TensorWriter, workers


def test_few_chunks_are_in_the_making_and_come_in_order(monkeypatch):
    made, written, lock = [], [], threading.Lock()

    def encode(x, *_):
        with lock:
            made.append(x[0])
            assert len(made) - len(written) <= 2 * tensor_writer.AHEAD
        return bytes([0]) + x.tobytes()

    def progress(nbytes):
        with lock:
            written.append(nbytes)

    monkeypatch.setattr(tensor_writer, "_encode", encode)
    file, x = io.BytesIO(), np.arange(1000, dtype=np.uint32)
    with TensorWriter(file, threads=2, chunk_nbytes=64, progress=progress) as writer:
        writer.add("x", x)
        assert len(made) >= 63 - 2 * tensor_writer.AHEAD
        writer.finish({"kind": "tree"})
    assert sorted(made) == list(range(0, 1000, 16)) and sum(written) == x.nbytes
    monkeypatch.undo()
    with jc.io.open_tensors(file) as found:
        np.testing.assert_array_equal(found.read("x"), x)


def test_parts_have_to_add_up():
    for sizes in ((4, 3), (4, 4, 4), (3, 4, 1), ()):
        parts = [np.zeros(size, np.float32) for size in sizes]
        with TensorWriter(io.BytesIO(), chunk_nbytes=16) as writer:
            with pytest.raises(jc.UnsupportedInput, match="x: expected 8 values in parts of 4"):
                writer.add_parts("x", np.float32, (8,), lambda step, parts=parts: parts)
            with pytest.raises(jc.UnsupportedInput, match="expected all of x"):
                writer.finish({})


@pytest.mark.parametrize(
    ("rows", "chunk_nbytes"), [(6, 64), (6, 1 << 20), (2000, 1 << 20)], ids=["cut", "tiny", "small"]
)
def test_big_endian_and_strided_arrays_are_their_values(rows, chunk_nbytes):
    x, file = np.arange(10 * rows, dtype=">i4").reshape(rows, 10), io.BytesIO()
    with TensorWriter(file, chunk_nbytes=chunk_nbytes) as writer:
        writer.add("x", x)
        writer.add("y", x[::2, ::-3])
        writer.finish({"kind": "tree"})
    with jc.io.open_tensors(file) as found:
        assert found.row("x").dtype == np.dtype("<i4")
        np.testing.assert_array_equal(found.read("x"), x)
        np.testing.assert_array_equal(found.read("y"), x[::2, ::-3])


def test_there_are_two_threads_at_least():
    assert workers(None) >= 2 and workers(1) == 1
    with pytest.raises(jc.UnsupportedInput, match="threads of at least 1"):
        workers(0)
