"""Lanes doubled and halved: one undoes the other, whatever the stack holds."""

import jax
import numpy as np
import pytest

from jaxcomp.coding.halving import narrow, split_tail, tail_length, widen, without_zeros
from jaxcomp.coding.stream import INITIAL_HEAD, Stream


def stream(size, lanes=8, capacity=30):
    rng = np.random.default_rng(size)
    return Stream(
        rng.integers(1 << 16, 1 << 32, (1, lanes), np.uint32),
        rng.integers(1, 1 << 16, (1, capacity)).astype(np.uint16),
        np.array([size], np.int32),
        np.zeros(0, np.uint32),
        np.int32(0),
        np.asarray(False),
    )


@pytest.mark.parametrize("size", [0, 3, 8, 21])
@pytest.mark.parametrize("form", [lambda f: f, jax.jit])
def test_narrow_undoes_widen(size, form):
    start = stream(size)
    wide = form(widen)(start)
    assert wide.head.shape == (1, 16) and wide.size == max(size - 8, 0)
    np.testing.assert_array_equal(np.asarray(wide.head[:, 8:]) >> 16, 1)
    back = form(narrow)(wide)
    zeros = max(8 - size, 0)
    assert back.size == size + zeros and not back.overflow
    np.testing.assert_array_equal(back.head, start.head)
    words = np.asarray(back.words)[0]
    np.testing.assert_array_equal(words[zeros : zeros + size], start.words[0, :size])
    assert not words[:zeros].any()


def test_heads_that_no_widening_made_are_noticed():
    wide = widen(stream(20))
    head = wide.head.copy()
    head[0, 12] = 2 * INITIAL_HEAD
    assert narrow(wide._replace(head=head)).overflow


def test_zeros_at_the_bottom_are_no_message():
    empty = stream(8)._replace(words=np.zeros((1, 30), np.uint16))
    for size in (0, 1, 8):
        assert without_zeros(empty._replace(size=np.array([size], np.int32))).size == 0
    # More than narrow puts there, fewer than none, and words that are not zero: all are left.
    for size in (9, -1):
        assert without_zeros(empty._replace(size=np.array([size], np.int32))).size == size
    assert without_zeros(stream(3)).size == 3


def test_the_tail_is_at_most_half_of_the_message():
    assert [tail_length(n, 64) for n in (0, 1, 100, 1 << 20)] == [0, 0, 50, 2048]
    assert tail_length(1 << 20, 1) == tail_length(1 << 20, 128) == 0
    first, last = split_tail(np.arange(12).reshape(3, 4), 5)
    np.testing.assert_array_equal(first, np.arange(7))
    np.testing.assert_array_equal(last, np.arange(7, 12))
    assert split_tail(None, 5) == (None, None)
