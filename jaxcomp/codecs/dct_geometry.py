"""Where the pieces of a photo lie: tiles, 32x32 superblocks, 16x16 cells, and who is next to whom.

A tile is a rectangle of whole superblocks. Its cells are numbered in raster order, and everything
that a program needs to know about the rectangle is in index arrays, so that one compiled program
serves every rectangle of up to `capacity` cells. Absent neighbours point to slot `capacity`, where
everything is zero.

Means of cells are predicted from coarse to fine: the cell (0, 0) first; then, with strides halving,
cells at odd multiples of the stride in both directions from their four diagonal neighbours at that
distance, and those at an odd multiple in one direction from their four edge neighbours.
"""

from typing import NamedTuple

import numpy as np

CELL = 16
SUPERBLOCK = 32
# Programs are compiled for these numbers of cells: 256x256 and 768x512 pixels.
CAPACITIES = (256, 1536)

_NEIGHBOURS = ((0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))


class Geometry(NamedTuple):
    """One tile of rows x columns cells in `capacity` slots; all int32, made on the host.

    neighbours   [8, capacity], slots of left, right, up, down and the four diagonal neighbours
    block        [capacity], superblock * 4 + (row % 2) * 2 + column % 2; absent cells: 0
    members      [capacity / 4, 4], the slots of each superblock's cells; absent: capacity
    level        [capacity], 2 k + diagonal for a mean predicted at stride 2**k, at most 7
    sources      [4, capacity], slots that a mean is predicted from; (0, 1) and (2, 3) are opposite
    valid        [capacity], 1 where there is a cell
    order        tuple of arrays of slots; sources are in earlier arrays than what they predict
    """

    neighbours: np.ndarray
    block: np.ndarray
    members: np.ndarray
    level: np.ndarray
    sources: np.ndarray
    valid: np.ndarray
    order: tuple[np.ndarray, ...]


def tiles(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Rectangles (top, left, height, width) in pixels, as equal as possible, none too large."""
    rows, columns = -(-height // SUPERBLOCK), -(-width // SUPERBLOCK)
    best = None
    most = CAPACITIES[-1] // 4
    for across in range(1, columns + 1):
        wide = -(-columns // across)
        if wide > most:
            continue
        down = -(-rows // (most // wide))
        # Fewest tiles first, then the shortest total perimeter.
        cost = (across * down, rows * across + columns * down)
        if best is None or cost < best[0]:
            best = cost, down, across
        if best is not None and across > best[0][0]:
            break
    _, down, across = best
    ys = [rows * i // down * SUPERBLOCK for i in range(down)] + [height]
    xs = [columns * i // across * SUPERBLOCK for i in range(across)] + [width]
    return [
        (y, x, y2 - y, x2 - x)
        for y, y2 in zip(ys[:-1], ys[1:], strict=True)
        for x, x2 in zip(xs[:-1], xs[1:], strict=True)
    ]


def geometry(rows: int, columns: int, capacity: int) -> Geometry:
    """The geometry of rows x columns cells (both even, at most `capacity` together)."""
    y, x = np.mgrid[0:rows, 0:columns]
    count = rows * columns
    padded = np.full((rows + 2, columns + 2), capacity)
    padded[1:-1, 1:-1] = y * columns + x
    neighbours = np.full((8, capacity), capacity, np.int32)
    for i, (dy, dx) in enumerate(_NEIGHBOURS):
        neighbours[i, :count] = padded[1 + dy : 1 + dy + rows, 1 + dx : 1 + dx + columns].ravel()
    block = np.zeros(capacity, np.int32)
    superblock = (y // 2) * (columns // 2) + x // 2
    block[:count] = (superblock * 4 + (y & 1) * 2 + (x & 1)).ravel()
    members = np.full((capacity // 4, 4), capacity, np.int32)
    members.reshape(-1)[block[:count]] = np.arange(count)
    # A cell is predicted at stride 2**k, k the trailing zeros of its row and column together.
    joined = y | x | 1 << 12
    k = np.log2(joined & -joined).astype(np.int64)
    diagonal = (y >> k & x >> k & 1) == 1
    level = np.zeros(capacity, np.int32)
    level[:count] = np.minimum(2 * k + diagonal, 7).ravel()
    sources = np.full((4, capacity), capacity, np.int32)
    for i in range(4):
        dy = np.where(diagonal, (-1, 1, -1, 1)[i], (0, 0, -1, 1)[i]) << k
        dx = np.where(diagonal, (-1, 1, 1, -1)[i], (-1, 1, 0, 0)[i]) << k
        exists = (y + dy >= 0) & (y + dy < rows) & (x + dx >= 0) & (x + dx < columns)
        sources[i, :count] = np.where(exists, (y + dy) * columns + x + dx, capacity).ravel()
    sources[:, 0] = capacity
    exact = (2 * k + diagonal).ravel()
    exact[0] = 99
    order = tuple(np.flatnonzero(exact == i) for i in np.unique(exact)[::-1])
    valid = np.zeros(capacity, np.int32)
    valid[:count] = 1
    return Geometry(neighbours, block, members, level, sources, valid, order)
