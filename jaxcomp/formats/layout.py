"""How a weight of any shape lies as a matrix [out, in]: the one place that knows about axes.

A weight is multiplied by summing over some of its axes, its packed axes: the `in` of the matrix.
Its other axes, the free ones, are the `out`. Both are merged in the order in which they stand. A
packed array keeps the free axes where they were and has one merged axis in place of the packed
ones, where the last of them stood:

    kernel of Flax       [in, out]            packed (-2,)          codes [in', out]
    of torch, Equinox    [out, in]            packed (-1,)          codes [out, in']
    output projection    [heads, size, out]   packed (-3, -2)       codes [heads*size', out]
    convolution HWIO     [h, w, in, out]      packed (-4, -3, -2)   codes [h*w*in', out]
    stacked over layers  [layers, in, out]    packed (-2,)          codes [layers, in', out]

Axes are counted from the right, so a leading axis can come and go (scan, vmap, tree.map).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.base import UnsupportedInput

Packed = tuple[tuple[int, int], ...]  # (axis from the right, its size) of each packed axis


class Layout(NamedTuple):
    """shape of a weight, and which of its axes, counted from the right, are packed."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def packed(self) -> Packed:
        return tuple((axis, self.shape[axis]) for axis in self.axes)

    @property
    def free(self) -> tuple[int, ...]:
        """The other axes, counted from the right."""
        return tuple(a for a in range(-len(self.shape), 0) if a not in self.axes)

    @property
    def size_in(self) -> int:
        return math.prod(self.shape[axis] for axis in self.axes)

    @property
    def size_out(self) -> int:
        return math.prod(self.shape[axis] for axis in self.free)


def layout(shape: Sequence[int], axes: int | Sequence[int]) -> Layout:
    """A Layout of checked axes, from any way to count them."""
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    rank = len(shape)
    if not axes or any(not -rank <= a < rank for a in axes):
        raise UnsupportedInput(
            f"expected axes of an array of shape {tuple(shape)}, got {axes}; name the axes that a "
            "product with this weight sums over, -2 for a kernel [in, out]"
        )
    counted = tuple(sorted(a - rank if a >= 0 else a for a in axes))
    if len(set(counted)) != len(counted):
        raise UnsupportedInput(f"expected each axis once, got {axes}; name each once")
    if 0 in shape:
        raise UnsupportedInput(
            f"expected a weight with values, got shape {tuple(shape)}; leave it as an array"
        )
    return Layout(tuple(shape), counted)


def free_index(place: Layout, index: Any) -> list[int | slice]:
    """An index of a weight, x[index], as an int or a slice for each axis: whole along packed ones.

    UnsupportedInput for what cuts a packed axis, lies outside, leaves nothing, or is no index.
    """
    given = index if isinstance(index, tuple) else (index,)
    rank = len(place.shape)
    dots = [i for i, key in enumerate(given) if key is Ellipsis]
    if len(dots) > 1 or len(given) - len(dots) > rank:
        raise UnsupportedInput(
            f"expected at most {rank} indices and one ..., got {index!r}; give one for each axis"
        )
    fill = [slice(None)] * (rank - len(given) + len(dots))
    at = dots[0] if dots else len(given)
    keys = [*given[:at], *fill, *given[at + 1 :]]
    for axis, (key, size) in enumerate(zip(keys, place.shape, strict=True)):
        if isinstance(key, slice):
            left = len(range(size)[key])
            whole = left == size and (key.step is None or key.step > 0)
        elif isinstance(key, int | np.integer) and not isinstance(key, bool):
            left, whole = int(-size <= key < size), False
        else:
            raise UnsupportedInput(
                f"expected ints and slices, got {key!r}; look up by arrays with jc.formats.take"
            )
        if not left:
            raise UnsupportedInput(
                f"expected an index that leaves something of the {size} along axis {axis}, got "
                f"{key!r}; stay inside"
            )
        if axis - rank in place.axes and not whole:
            raise UnsupportedInput(
                f"expected axis {axis} whole, along which the weight is packed, got {key!r}; cut "
                "the dense weight, or pack it along another axis"
            )
    return [key if isinstance(key, slice) else int(key) for key in keys]


def to_matrix(w: jax.Array, axes: Sequence[int]) -> tuple[jax.Array, Layout]:
    """w of any shape -> (matrix [out, in], its layout)."""
    place = layout(w.shape, axes)
    return w.transpose(*place.free, *place.axes).reshape(place.size_out, place.size_in), place


def from_matrix(part: jax.Array, place: Layout) -> jax.Array:
    """[out or 1, p] -> the packed array: free axes where they stood, one merged axis of size p."""
    free = [place.shape[a] if part.shape[0] != 1 else 1 for a in place.free]
    return jnp.moveaxis(part.reshape(*free, part.shape[1]), -1, merged_axis(place.packed))


def merged_axis(packed: Packed) -> int:
    """Where the merged axis of a packed array stands, counted from the right."""
    return packed[-1][0]


def logical_shape(parts: Sequence[int], packed: Packed) -> tuple[int, ...]:
    """Shape of the weight, from the shape of a packed array of it."""
    free = list(parts)
    del free[merged_axis(packed)]
    rank = len(free) + len(packed)
    sizes = {axis + rank: size for axis, size in packed}
    rest = iter(free)
    return tuple(sizes[i] if i in sizes else next(rest) for i in range(rank))


def unmerge(part: jax.Array, packed: Packed) -> jax.Array:
    """A packed array whose merged axis has its true size -> the weight's shape and axis order."""
    shape = logical_shape(part.shape, packed)
    split = jnp.moveaxis(part, merged_axis(packed), -1)
    split = split.reshape(*split.shape[:-1], *(size for _, size in packed))
    count = len(packed)
    return jnp.moveaxis(split, range(-count, 0), [axis + len(shape) for axis, _ in packed])
