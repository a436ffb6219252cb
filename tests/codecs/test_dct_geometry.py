"""Tiles, cells and their neighbours: everything is covered once, and known before it is needed."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from jaxcomp.codecs.dct_geometry import CAPACITIES, SUPERBLOCK, geometry, tiles


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000))
def test_tiles_cover_the_photo_once_and_fit(height, width):
    covered = np.zeros((-(-height // SUPERBLOCK), -(-width // SUPERBLOCK)), int)
    for y, x, h, w in tiles(height, width):
        assert y % SUPERBLOCK == x % SUPERBLOCK == 0 and y + h <= height and x + w <= width
        rows, columns = -(-h // SUPERBLOCK), -(-w // SUPERBLOCK)
        assert 4 * rows * columns <= CAPACITIES[-1]
        covered[y // SUPERBLOCK :, x // SUPERBLOCK :][:rows, :columns] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (6, 10), (16, 16)])
def test_cells_are_numbered_once_and_neighbours_are_mutual(rows, columns):
    capacity = CAPACITIES[0]
    grid = geometry(rows, columns, capacity)
    count = rows * columns
    assert sorted(grid.members[grid.members < capacity]) == list(range(count))
    assert grid.valid.sum() == count
    for one, other in ((0, 1), (2, 3), (4, 7), (5, 6)):
        here = np.flatnonzero(grid.neighbours[one] < capacity)
        np.testing.assert_array_equal(grid.neighbours[other, grid.neighbours[one, here]], here)


def test_a_mean_is_predicted_from_what_came_before():
    capacity = CAPACITIES[0]
    grid = geometry(12, 20, capacity)
    known = set()
    for slots in grid.order:
        needed = set(grid.sources[:, slots].ravel()) - {capacity}
        assert needed <= known
        known |= set(slots)
    assert known == set(range(240))
