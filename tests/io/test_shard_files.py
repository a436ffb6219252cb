"""Shards of several processes, in memory: put together, or refused."""

import io
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.base import CorruptStream
from jaxcomp.io.shard_files import Box, Leaf, in_boxes, open_shards, write_shards
from jaxcomp.io.tensor_reader import Tensors

GOLDEN = Path(__file__).parents[1] / "golden" / "shards.jxc"


def saved(process, processes, shards, name="w", shape=(4, 2)):
    """The bytes of a file with int16 shards of a leaf at these rows."""
    whole = np.arange(8, dtype=np.int16).reshape(4, 2)
    cells = []
    for first, last in shards:
        box = Box((first, 0), (last - first, 2))
        cells.append((box, whole[first:last]))
    file = io.BytesIO()
    write_shards(file, [Leaf(name, np.dtype("<i2"), shape, None, cells)], process, processes)
    return file.getvalue()


def opened(*files):
    def opener(k):
        if k >= len(files):
            raise FileNotFoundError(k)
        return io.BytesIO(files[k])

    return open_shards(opener)


def test_files_must_make_whole_leaves():
    first = saved(0, 2, [(0, 2)])
    with opened(first, saved(1, 2, [(2, 4)])) as shards:
        box = Box((1, 0), (2, 1))
        np.testing.assert_array_equal(shards.read("w", [box])[0], [[2], [4]])
    for others in (
        [],
        [saved(1, 2, [])],
        [saved(1, 2, [(0, 2)])],
        [saved(1, 2, [(1, 4)])],
        [saved(1, 2, [(2, 3)])],
        [saved(1, 2, [(2, 4)], name="v")],
        [saved(1, 2, [(2, 4)], shape=(4, 3))],
        [saved(0, 2, [(2, 4)])],
        [saved(1, 3, [(2, 4)])],
    ):
        with pytest.raises(CorruptStream), opened(first, *others):
            pass


@pytest.mark.parametrize("shape", [(), (7,), (4, 5), (1, 3, 2, 4), (5, 1, 3)])
def test_any_run_of_values_is_a_few_boxes(shape):
    x = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    whole = Box((0,) * x.ndim, shape)
    for start in range(x.size):
        for stop in range(start + 1, x.size + 1):
            boxes = in_boxes(shape, start, stop)
            found = np.concatenate([x[box.within(whole)].reshape(-1) for box in boxes])
            np.testing.assert_array_equal(found, np.arange(start, stop))
            assert len(boxes) <= max(1, 2 * x.ndim - 1)


def test_chunks_that_end_anywhere_make_any_box(monkeypatch):
    x = np.arange(7 * 6 * 6, dtype=np.int16).reshape(7, 6, 6)
    cells = [Box((0, a, b), (7, 3, 3)) for a in (0, 3) for b in (0, 3)]
    whole, file = Box((0, 0, 0), x.shape), io.BytesIO()
    shards = [(cell, x[cell.within(whole)]) for cell in cells]
    write_shards(file, [Leaf("x", x.dtype, x.shape, None, shards)], 0, 1, chunk_nbytes=16)
    random, decoded = np.random.default_rng(0), []
    flat = Tensors.flat
    monkeypatch.setattr(Tensors, "flat", lambda *job: decoded.append(job[1:]) or flat(*job))
    with opened(file.getvalue()) as shards:
        for _ in range(30):
            corners = [np.sort(random.integers(0, x.shape, (2, 3)), 0) for _ in range(2)]
            boxes = [Box(tuple(a.tolist()), tuple((b - a + 1).tolist())) for a, b in corners]
            for box, found in zip(boxes, shards.read("x", boxes), strict=True):
                np.testing.assert_array_equal(found, x[box.within(whole)])
            assert len(set(decoded)) == len(decoded) <= 44
            decoded.clear()
        shards.read("x", [Box((6, 0, 0), (1, 1, 1))])
    assert len(decoded) == 1


def test_files_of_version_1_are_read():
    with opened(GOLDEN.read_bytes()) as shards:
        leaf = shards.leaves["params.w"]
        box = Box((0, 0), leaf.shape)
        (found,) = shards.read("params.w", [box])
        assert (leaf.dtype, leaf.shape, leaf.key) == (jnp.bfloat16, (4, 6), None)
        assert shards.leaves["key"].key == "threefry2x32"
    np.testing.assert_array_equal(found.view(np.uint16), np.arange(24).reshape(4, 6) * 2711)
