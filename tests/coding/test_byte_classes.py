"""Rows and columns of one scale have one class, those of others more, where that is smaller."""

import numpy as np
import pytest

from jaxcomp.base import CorruptStream
from jaxcomp.coding import byte_classes

RNG = np.random.default_rng(0)


def exponents(scale):
    x = RNG.normal(size=(256, 96)) * scale
    return (np.frexp(x)[1] + 120).astype(np.uint8).reshape(-1)


RANK = np.full(256, 23, np.uint8)
RANK[np.argsort(-np.bincount(exponents(1.0), minlength=256), kind="stable")[:23]] = np.arange(23)


def choose(plane, width, paired):
    counts = np.bincount(RANK[plane], minlength=24)
    return byte_classes.choose(plane, width, paired, RANK, counts)


@pytest.mark.parametrize("per", [1, 2])
def test_scales_make_classes(per):
    plain = exponents(1.0)
    paired, chosen = choose(plain, 96, per == 2)
    assert paired == (per == 2) and len(chosen.counts) == 1 and chosen.of(plain.size // per) is None
    rows = np.exp2(np.arange(256) % 4)[:, None]
    columns = np.repeat(np.exp2(np.arange(48) % 5), 2)
    for scale, steps in ((rows, [256]), (columns, [96 // per]), (rows * columns, [256, 96 // per])):
        plane = exponents(scale)
        paired, chosen = choose(plane, 96, per == 2)
        assert [s.size for s in chosen.steps()] == steps
        index = chosen.of(plane.size // per)
        there = (chosen.rows is not None, chosen.columns is not None)
        layout = byte_classes.sizes(96 // per, index.size, *there)
        stored = np.concatenate(chosen.steps())
        read = byte_classes.read(stored, layout, 96 // per, index.size, len(chosen.counts))
        assert (read == index).all() and index.max() < len(chosen.counts)
        # Of one class, exponents are more alike than of all.
        inside = sum(plane[np.repeat(index, per) == k].var() for k in np.unique(index))
        assert inside / len(np.unique(index)) < 0.8 * plane.var()


def test_rows_fill_the_plane():
    assert choose(exponents(1.0)[:-1], 96, False)[1].width == 0
    for width in (0, 97, 24577):
        with pytest.raises(CorruptStream, match="rows"):
            byte_classes.sizes(width, 24576, True, False)
