"""Arrays come back: integers as they were, floats on their grid; and in few bytes."""

import numpy as np
import pytest

from jaxcomp.base import CorruptStream
from jaxcomp.codecs.packed_arrays import pack_arrays, unpack_arrays


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return {
        "a/weights": np.rint(rng.laplace(0, 9, (3, 3, 32, 40))).clip(-128, 127).astype(np.int8),
        "a/bias": rng.integers(-(1 << 29), 1 << 29, 40).astype(np.int32),
        "b/wide": np.rint(rng.normal(0, 900, (70, 70))).astype(np.int16),
        "c/floats": (rng.normal(size=(90, 64)) * 2.0 ** rng.integers(-9, 3, 64)).astype("f4"),
        "c/none": np.zeros((90, 64), np.float32),
        "c/one": np.float32([0.1, -3.0]),
        "d/counts": rng.integers(0, 1 << 16, (65, 128)).astype(np.uint32),
    }


def test_integers_come_back_and_floats_on_their_grid(arrays):
    listing, data = pack_arrays(arrays)
    back = unpack_arrays(listing, data)
    assert back.keys() == arrays.keys()
    for path, array in arrays.items():
        if array.dtype.kind == "f":
            peak = np.abs(array).reshape(-1, array.shape[-1]).max(0)
            assert (np.abs(back[path] - array) <= peak / 1023 / 2).all(), path
        else:
            np.testing.assert_array_equal(back[path], array)
            assert back[path].dtype == array.dtype
    again = pack_arrays(back)
    assert again[1] == data and again[0] == listing


def test_large_arrays_take_what_their_entropy_asks(arrays):
    values = arrays["a/weights"]
    size = len(pack_arrays({"a": values})[1])
    _, counts = np.unique(values, return_counts=True)
    entropy = -(counts / values.size * np.log2(counts / values.size)).sum() / 8 * values.size
    assert entropy < size < 1.01 * entropy + 512 + 200


def test_what_was_not_written_is_refused(arrays):
    listing, data = pack_arrays(arrays)
    first = listing[0]
    for bad in (
        [*listing[1:]],
        [[first[0], "<f8", *first[2:]], *listing[1:]],
        [[*first[:2], [1 << 40], 0, 0], *listing[1:]],
        [[*first[:2], [1 << 26], 0, 0], *listing[1:]],
        [[*first[:4], 60], *listing[1:]],
        [None],
    ):
        with pytest.raises(CorruptStream, match="expected"):
            unpack_arrays(bad, data)
    for end in (0, 3, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(CorruptStream, match="expected"):
            unpack_arrays(listing, data[:end])
    with pytest.raises(CorruptStream, match="expected"):
        unpack_arrays(listing, data + b"x")
