"""Shards of several processes, in memory: put together, or refused."""

import io
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.base import CorruptStream
from jaxcomp.io.shard_files import Box, Leaf, open_shards, write_shards

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


def test_files_of_version_1_are_read():
    with opened(GOLDEN.read_bytes()) as shards:
        leaf = shards.leaves["params.w"]
        box = Box((0, 0), leaf.shape)
        (found,) = shards.read("params.w", [box])
        assert (leaf.dtype, leaf.shape, leaf.key) == (jnp.bfloat16, (4, 6), None)
        assert shards.leaves["key"].key == "threefry2x32"
    np.testing.assert_array_equal(found.view(np.uint16), np.arange(24).reshape(4, 6) * 2711)
