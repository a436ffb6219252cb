"""Integers as tokens and bits: exact at any size, and near the entropy of smooth densities."""

import numpy as np
import pytest

from jaxcomp.base import CorruptStream
from jaxcomp.coding.magnitude_tokens import EXTRA, from_tokens, to_tokens, token_bits


def test_every_size_comes_back():
    powers = [s * (2**n + d) for n in range(63) for d in (-1, 0, 1) for s in (-1, 1)]
    ends = [0, 2**63 - 1, -(2**63), -(2**63) + 1]
    v = np.array([*powers, *ends, *range(-300, 300)], np.int64)
    tokens, parts = to_tokens(v)
    data = b"".join(part.tobytes() for part in parts)
    np.testing.assert_array_equal(from_tokens(tokens, memoryview(data)), v)
    for bad in (data[:-1], data + b"0"):
        with pytest.raises(CorruptStream, match="below tokens"):
            from_tokens(tokens, memoryview(bad))
    assert EXTRA[2 * 8] == 1 and EXTRA[255] == 64 and EXTRA[2 * 7 + 1] == 0


def test_bits_are_near_the_entropy_of_a_smooth_density():
    draw = np.random.default_rng(0)
    for scale in (3, 100, 1e4):
        v = np.rint(draw.laplace(0, scale, 1 << 16)).astype(np.int64)
        ideal = np.log2(2 * np.e * scale)
        assert token_bits(v) / v.size < ideal + 0.02
