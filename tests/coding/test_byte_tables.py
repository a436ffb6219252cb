"""Frequencies sum to a power of two, each at least 1, and cost little above the entropy."""

import numpy as np
import pytest

from jaxcomp.coding.byte_tables import SHARES, best_table, frequencies, shares
from jaxcomp.kernels.rans_bytes import MOST

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("kinds", [1, 2, 9, 16, 256])
def test_frequencies_are_near_the_shares(paired, kinds):
    if paired and kinds > 16:
        return
    counts = RNG.integers(1, 1000, (5, kinds)) * 2.0 ** -np.arange(kinds).clip(0, 9)
    g = shares(counts)
    assert (g.sum(1) == SHARES).all() and g.min() >= 1
    p = counts / counts.sum(1, keepdims=True)
    assert np.abs(g / SHARES - p).max() < 0.02
    precision, f = best_table(g, paired)
    assert (f.sum(1) == 1 << precision).all() and f.max() <= MOST
    q = f / f.sum(1, keepdims=True)
    if paired:
        q = q.reshape(5, 16, 16)[:, :kinds, :kinds]
        p = p[:, :, None] * p[:, None]
    else:
        q = q[:, :kinds]
    assert q.min() > 0
    excess = (p * np.log2(p / q)).reshape(5, -1).sum(1)
    assert excess.max() < 0.03 * (1 + paired)


def test_shares_of_what_was_never_seen():
    g = shares(np.zeros((2, 7)))
    assert (g.sum(1) == SHARES).all() and g.min() >= 1


def test_what_rounding_leaves_over_never_lifts_a_frequency_above_the_most():
    for share in np.linspace(0.488, 0.495, 40):  # of one kind; the others are equal
        counts = np.full((1, 16), (1 - share) / 15 * 1e6)
        counts[0, 0] = share * 1e6
        g = shares(counts)
        precision, f = best_table(g, True)
        assert f.max() <= MOST and precision >= 13


def test_the_integers_are_those_of_the_definition():
    """The largest s by halving: what a table is follows from the shares for ever."""
    for paired in (False, True):
        for kinds in (1, 2, 11, 16, 200)[: 5 - paired]:
            for power in (0, 1, 9):  # equal shares have equal steps, and skewed ones have many of 1
                g = shares(RNG.random((3, kinds)) ** power)
                w = (g[:, :, None] * g[:, None]).reshape(3, -1) if paired else g
                for p in (12, 13, 14):
                    s = np.zeros((3, 1), np.int64)
                    for bit in reversed(range(p + 3)):
                        f = np.maximum(1, w * (s | 1 << bit) >> (30 if paired else 16))
                        s |= (f.sum(1, keepdims=True) <= 1 << p) << bit
                    f = np.maximum(1, w * s >> (30 if paired else 16))
                    f[range(3), w.argmax(1)] += (1 << p) - f.sum(1)
                    got = frequencies(g, p, paired)
                    if paired:
                        got = got.reshape(3, 16, 16)[:, :kinds, :kinds].reshape(3, -1)
                    assert (got[:, : f.shape[1]] == f).all() and got.sum() == 3 << p
