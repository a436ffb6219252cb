"""How latents lie in arrays: on a grid, for training, or cell by cell, for programs of any size.

A program for [b, h, w, c] is compiled for each h and w. A photo cut into cells [m, r, r, c] needs
one for each m alone, and CAPACITIES are few: convolutions see beyond a cell what its neighbours
say, and zeros where there is none, as on a grid. Both give the same integers.

A cell is what has one vector of side information: 4 x 4 blocks, 64 x 64 samples.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int32, Num

BLOCK = 16  # samples along a block
SIDE_STRIDE = 4  # blocks along a cell
# Programs are compiled for these numbers of cells: 256 x 256, 768 x 512 and 1024 x 1024 samples;
# the last one is for what is seen around a tile as well.
CAPACITIES = (16, 96, 256, 324)


class Grid:
    """Arrays [b, h, w, c]."""

    def shape(self, z: Array) -> tuple[int, ...]:
        """Of the blocks that side information z has."""
        return z.shape[0], z.shape[1] * SIDE_STRIDE, z.shape[2] * SIDE_STRIDE

    def convolve(self, layer: Any, x: Num[Array | np.ndarray, "b h w c"]) -> Num[Array, "b m n f"]:
        """The layer, with zeros beyond the border."""
        return layer(x)

    def convolve_mirrored(
        self, layer: Any, x: Num[Array | np.ndarray, "b h w c"]
    ) -> Num[Array, "b h w f"]:
        """A layer of 3 x 3, with what the border mirrors beyond it."""
        around = [(0, 0), (1, 1), (1, 1), (0, 0)]
        return layer(jnp.pad(x, around, mode="reflect"))[:, 1:-1, 1:-1]


GRID = Grid()


class Cells(NamedTuple):
    """Arrays [m, r, r, c], of so many cells; the methods are those of Grid.

    near    i32[m, 4], the cells above, below, left and right of each; m for none
    places  for 1, 2 and 3 passes, by pass: which blocks of [16 m] it codes, in order of the photo's
            rows and columns; 16 m for none, at the end
    """

    near: Int32[Array | np.ndarray, "m 4"]
    places: dict[int, tuple[Int32[Array | np.ndarray, " n"], ...]]

    def shape(self, z: Array) -> tuple[int, ...]:
        """Of the blocks that side information z has."""
        return len(self.near), SIDE_STRIDE, SIDE_STRIDE

    def convolve(self, layer: Any, x: Num[Array | np.ndarray, "m r r c"]) -> Num[Array, "m s s f"]:
        """The layer, with zeros beyond the border."""
        size, stride = layer.kernel_size[0], 1
        if isinstance(layer, nn.Conv):
            stride = np.ravel(layer.strides or 1)[0]
        # What is odd is seen after.
        x = self._with_border(x, (size - stride) // 2, (size - stride + 1) // 2)
        if not isinstance(layer, nn.Conv):
            return layer(x, valid=True)
        variables = layer.variables["params"]
        y = lax.conv_general_dilated(
            x,
            variables["kernel"],
            (stride, stride),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + variables["bias"] if layer.use_bias else y

    def convolve_mirrored(
        self, layer: Any, x: Num[Array | np.ndarray, "m r r c"]
    ) -> Num[Array, "m r r f"]:
        """A layer of 3 x 3, with what the border mirrors beyond it."""
        return layer(self._with_border(x, 1, 1, mirrored=True), valid=True)

    def _with_border(self, x, before, after, mirrored=False):
        """Each cell, and so many rows and columns of those around it."""
        for axis, (first, last) in ((1, (0, 1)), (2, (2, 3))):
            size = x.shape[axis]
            parts = [x]
            if before:
                ends = lax.slice_in_dim(x, size - before, size, axis=axis)
                inside = lax.slice_in_dim(x, 1, 2, axis=axis) if mirrored else None
                parts.insert(0, self._beyond(ends, first, inside))
            if after:
                ends = lax.slice_in_dim(x, 0, after, axis=axis)
                inside = lax.slice_in_dim(x, size - 2, size - 1, axis=axis) if mirrored else None
                parts.append(self._beyond(ends, last, inside))
            x = lax.concatenate(parts, axis)
        return x

    def _beyond(self, ends, side, instead):
        """The ends of the cells on one side of each, 0 or `instead` where there is none."""
        near = lax.slice_in_dim(self.near, side, side + 1, axis=1)
        if instead is None:  # no cell is one of zeros, after all others
            ends = lax.pad(ends, np.zeros((), ends.dtype), [(0, 1, 0)] + [(0, 0, 0)] * 3)
        rows = lax.GatherDimensionNumbers((1, 2, 3), (0,), (0,))
        found = lax.gather(ends, near, rows, (1, *ends.shape[1:]), mode="clip")
        if instead is None:
            return found
        absent = lax.broadcast_in_dim(lax.eq(near[:, 0], np.int32(len(near))), found.shape, (0,))
        return lax.select(absent, instead, found)


class Layout(NamedTuple):
    """Where the blocks of a rectangle are in the least number of cells that holds them."""

    cells: Cells
    shape: tuple[int, int]  # in blocks

    def cut(self, x: np.ndarray) -> np.ndarray:
        """[h, w, ...] of blocks, or of finer or coarser, to cells [m, r, r, ...]; others are 0."""
        rows, columns = (n // SIDE_STRIDE for n in self.shape)
        size = x.shape[0] // rows
        whole = x.reshape(rows, size, columns, size, *x.shape[2:]).swapaxes(1, 2)
        found = np.zeros((len(self.cells.near), size, size, *x.shape[2:]), x.dtype)
        found[: rows * columns] = whole.reshape(-1, *found.shape[1:])
        return found

    def join(self, x: Any) -> np.ndarray:
        """The inverse of cut."""
        rows, columns = (n // SIDE_STRIDE for n in self.shape)
        whole = np.asarray(x)[: rows * columns].reshape(rows, columns, *x.shape[1:])
        whole = whole.swapaxes(1, 2)
        return whole.reshape(rows * x.shape[1], columns * x.shape[2], *x.shape[3:])


@functools.lru_cache(16)
def layout(height: int, width: int) -> Layout:
    """Of a rectangle of height x width blocks, whole cells: at most CAPACITIES[-1] of them."""
    rows, columns = height // SIDE_STRIDE, width // SIDE_STRIDE
    capacity = next(n for n in CAPACITIES if n >= rows * columns)
    cells = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    around = np.pad(cells, 1, constant_values=capacity)
    sides = around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]
    near = np.full((capacity, 4), capacity, np.int32)
    near[: cells.size] = np.stack(sides, -1).reshape(-1, 4)
    inside = np.arange(SIDE_STRIDE**2, dtype=np.int32).reshape(SIDE_STRIDE, SIDE_STRIDE)
    slots = np.kron(cells * SIDE_STRIDE**2, np.ones_like(inside)) + np.tile(inside, (rows, columns))
    places = {}
    for passes in (1, 2, 3):
        shares = np.bincount(lattice(inside.shape, passes).ravel()) * capacity
        order = lattice((height, width), passes)
        found = [slots[order == number] for number in range(passes)]
        places[passes] = tuple(
            np.pad(x, (0, n - len(x)), constant_values=capacity * SIDE_STRIDE**2)
            for x, n in zip(found, shares, strict=True)
        )
    return Layout(Cells(near, places), (height, width))


def lattice(shape: tuple[int, ...], passes: int) -> np.ndarray:
    """int[h, w]: the pass that codes each position, 0 .. passes - 1.

    The last pass is one colour of a checkerboard; before it, turned by 45 degrees and coarser, one
    colour of the rest, and so on: each pass knows all neighbours of one kind around it.
    """
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    order = np.zeros(shape, np.int64)
    if passes > 1:
        order[(y + x) % 2 == 1] = passes - 1
        if passes > 2:
            order[(y % 2 == 1) & (x % 2 == 1)] = passes - 2
    return order
