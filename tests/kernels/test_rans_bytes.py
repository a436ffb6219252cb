"""Planes of bytes make the stream that every other rANS of the library makes, word for word."""

import numpy as np
import pytest

from jaxcomp.coding.tables import _directory
from jaxcomp.kernels import rans_bytes, rans_numpy

LANES, STEPS = 8, 40
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("precision", rans_bytes.PRECISIONS)
@pytest.mark.parametrize("paired", [False, True])
def test_streams_are_those_of_the_other_coders(precision, paired):
    count = LANES * STEPS - 3
    freq = np.stack([drawn(precision), drawn(precision)])
    index = RNG.integers(0, 2, (STEPS, LANES), np.uint8)
    values = RNG.integers(0, 16 if paired else 256, (STEPS, LANES * (1 + paired)), np.uint8)
    rank = RNG.permutation(16 if paired else 256).astype(np.uint8)
    rank = np.pad(rank, (0, 256 - len(rank)))
    packed = values.view(np.uint16) if paired else values
    symbols = rank[values]
    symbols = symbols[:, ::2] | symbols[:, 1::2] << 4 if paired else symbols

    every = np.arange(256)
    five = (every % 16 == 5) | (every // 16 == 5) if paired else every == 5

    numbers = np.uint32(precision), np.int32(count)
    head, word, flags = rans_bytes.encode(
        *(
            np.full(LANES, 1 << 16, np.uint32),
            packed,
            index,
            rank,
            rans_bytes.encoding_table(freq, five),
            *numbers,
        ),
        **dict(paired=paired, classed=True),
    )
    flags = np.asarray(flags)
    words = np.asarray(word)[flags & rans_bytes.EMITS > 0]
    expected = np.where(np.arange(LANES * STEPS) < count, five[symbols].reshape(-1), False)
    assert ((flags & rans_bytes.MARKED > 0).reshape(-1) == expected).all()

    entries = rans_bytes.encoding_table(freq).reshape(2, 256)
    planes = entries[index, symbols]
    planes.reshape(-1)[count:] = ((1 << precision) - 1) << 16
    start = np.full((1, LANES), 1 << 16, np.uint32)
    x, w, e = rans_numpy.encode(start, planes[None], precision=precision)
    assert (np.asarray(head) == x[0]).all() and (words == w[0][e[0]]).all()

    stack, size = words[::-1][None], np.array([len(words)], np.int32)
    tables = entries, _directory(entries & 0xFFFF, precision, np)
    got, *_ = rans_numpy.decode(
        *(np.asarray(head)[None], stack, size, tables, index[None], np.array([count], np.int32)),
        **dict(precision=precision, steps=STEPS),
    )
    assert (got.reshape(-1)[:count] == symbols.reshape(-1)[:count]).all()

    back = np.argsort(rank[: 16 if paired else 256], kind="stable").astype(np.uint16)
    back = (back[None] | back[:, None] << 8).reshape(-1) if paired else back
    table = rans_bytes.decoding_table(freq)
    padded = np.pad(words, (0, LANES))
    out, left, taken = rans_bytes.decode(
        *(np.asarray(head), padded, index, table, back, *numbers),
        **dict(steps=STEPS, paired=paired, classed=True),
    )
    assert (np.asarray(out).reshape(-1)[:count] == packed.reshape(-1)[:count]).all()
    assert (np.asarray(left) == 1 << 16).all() and taken == len(words)


def drawn(precision):
    """u32[256] frequencies that sum to 2**precision, the largest as large as an entry holds."""
    share = RNG.random(256) ** 4
    freq = 1 + np.floor(share / share.sum() * ((1 << precision) - 300)).astype(np.uint32)
    freq[RNG.integers(256)] += (1 << precision) - freq.sum()
    return freq
