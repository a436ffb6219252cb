"""A large photo as a grid of equal tiles: bounded memory, and one compiled program for all of them.

Tiles are coded one by one. Transforms look beyond them, so each comes with a window: the tile and a
halo around it, and where the photo ends the window is pushed back inside. So every window has one
size, and its sides are either a halo away from the tile or those of the photo, where the zeros that
convolutions assume are right: what a window says of its tile is what the whole photo would say.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .latent_codec import UNIT
from .latent_transforms import BLOCK

# Pixels on a side, at most. Programs need 150 bytes a pixel at their worst (measured): 160 MB for
# such a tile and its halo. Its sizes, flags and heads are about 130 bytes, 0.1 % of what it takes.
TILE = 1024


class Box(NamedTuple):
    """A rectangle of a photo, in pixels: multiples of BLOCK."""

    top: int
    left: int
    height: int
    width: int

    def slices(self, unit: int = 1) -> tuple[slice, slice]:
        """The index of the box in what has one element for `unit` x `unit` pixels."""
        top, left, height, width = (n // unit for n in self)
        return slice(top, top + height), slice(left, left + width)

    def within(self, other: "Box") -> "Box":
        """The same rectangle, counted from the corner of another."""
        return self._replace(top=self.top - other.top, left=self.left - other.left)


class Tile(NamedTuple):
    """What is coded by itself, and what has to be seen for it."""

    box: Box
    window: Box


def tile_sides(length: int) -> tuple[int, int]:
    """(tiles, the side of each) along so many pixels: as few as TILE allows, as even as UNIT."""
    count = -(-length // TILE)
    return count, -(-length // (count * UNIT)) * UNIT


def padded_shape(height: int, width: int) -> tuple[int, int]:
    """The sides of a photo as its tiles fill them."""
    (rows, tile_height), (columns, tile_width) = tile_sides(height), tile_sides(width)
    return rows * tile_height, columns * tile_width


def count_tiles(height: int, width: int) -> int:
    """Tiles of a photo."""
    return tile_sides(height)[0] * tile_sides(width)[0]


def tiles(height: int, width: int, *, halo: int) -> Iterator[Tile]:
    """The tiles of a photo, row by row; halo: blocks to be seen around each."""
    (rows, tile_height), (columns, tile_width) = tile_sides(height), tile_sides(width)
    for row in range(rows):
        top, seen_height, seen_top = _spans(row, rows, tile_height, halo * BLOCK)
        for column in range(columns):
            left, seen_width, seen_left = _spans(column, columns, tile_width, halo * BLOCK)
            box = Box(top, left, tile_height, tile_width)
            yield Tile(box, Box(seen_top, seen_left, seen_height, seen_width))


def _spans(number, count, side, halo):
    start, seen = number * side, min(side + 2 * halo, count * side)
    return start, seen, min(max(start - halo, 0), count * side - seen)


def cut(samples: np.ndarray, box: Box) -> np.ndarray:
    """The samples [h, w, c] of a box; beyond the photo its last row and column go on."""
    rows, columns = (
        np.minimum(np.arange(s.start, s.stop), n - 1)
        for s, n in zip(box.slices(), samples.shape, strict=False)
    )
    return samples[rows[:, None], columns]


def one_tile(height: int, width: int) -> Box:
    """A photo of any size as a single tile."""
    return Box(0, 0, *(-(-n // UNIT) * UNIT for n in (height, width)))
