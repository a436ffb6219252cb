"""A weight seen through transposes, reshapes, broadcasts and slices, none of which has happened.

Each axis of a view is a tuple of atoms, outer first. An atom is a factor of one axis of the source:
an axis of 12 that was reshaped to (3, 4) is the atoms (axis, size 3, inner 4) and (axis, 4, 1). An
atom without an axis is a broadcast. Axes of size 1 have no atoms. Axes of the source are counted
from the right.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcomp.formats.leaf import Leaf


class Atom(NamedTuple):
    axis: int | None
    size: int
    inner: int  # the product of what is faster in the same axis


Axis = tuple[Atom, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A selected weight inside a traced function.

    path    of it in the parameters
    array   a compressed leaf, or the dense array where one only watches
    at      per axis that was cut to one index (counted from the right): that index
    ndim    of the whole weight; axes that loops went over are missing from array
    """

    path: str
    array: Any
    at: tuple[tuple[int, Any], ...] = ()
    ndim: int = 0

    def dense(self) -> jax.Array:
        return self.array.dense() if isinstance(self.array, Leaf) else self.array


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """A source as an array of other axes and dtype."""

    source: Source
    axes: tuple[Axis, ...]
    dtype: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis_size(axis) for axis in self.axes)

    @property
    def is_whole(self) -> bool:
        """Whether the view is its source, untouched."""
        same = self.axes == whole(self.source).axes
        return same and self.dtype == self.source.array.dtype and not self.source.at

    def dense(self) -> jax.Array:
        """What the view stands for."""
        w = self.source.dense()
        atoms = [a for axis in self.axes for a in axis if a.axis is not None]
        kept = sorted(atoms, key=place)
        w = w.reshape([a.size for a in kept]).transpose([kept.index(a) for a in atoms])
        present = [a for axis in self.axes for a in axis]
        w = jax.lax.broadcast_in_dim(
            w,
            [a.size for a in present],
            [i for i, a in enumerate(present) if a.axis is not None],
        )
        return w.reshape(self.shape).astype(self.dtype)


def axis_size(axis: Axis) -> int:
    return math.prod(atom.size for atom in axis)


def place(atom: Atom) -> tuple[int, int]:
    """Sort key: the order in which atoms stand in the source."""
    return atom.axis, -atom.inner


def whole(source: Source) -> View:
    """A source as it is."""
    shape = source.array.shape
    axes = tuple(_axis(i - len(shape), size) for i, size in enumerate(shape))
    return View(source, axes, jnp.dtype(source.array.dtype))


def _axis(axis: int | None, size: int) -> Axis:
    return () if size == 1 else (Atom(axis, size, 1),)


def whole_axes(atoms: list[Atom], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The source's axes that the atoms cover; None where they cover one only in part."""
    covered: dict[int, int] = {}
    for atom in atoms:
        covered[atom.axis] = covered.get(atom.axis, 1) * atom.size
    whole = all(shape[axis] == size for axis, size in covered.items())
    return tuple(sorted(covered)) if whole else None


def transpose(view: View, permutation: tuple[int, ...]) -> View:
    return dataclasses.replace(view, axes=tuple(view.axes[i] for i in permutation))


def squeeze(view: View, dimensions: tuple[int, ...]) -> View:
    axes = tuple(axis for i, axis in enumerate(view.axes) if i not in dimensions)
    return dataclasses.replace(view, axes=axes)


def convert(view: View, dtype: Any) -> View | None:
    if not jnp.issubdtype(dtype, jnp.floating):
        return None
    return dataclasses.replace(view, dtype=jnp.dtype(dtype))


def broadcast(view: View, shape: tuple[int, ...], dimensions: tuple[int, ...]) -> View:
    """lax.broadcast_in_dim."""
    axes = []
    for i, size in enumerate(shape):
        axis = view.axes[dimensions.index(i)] if i in dimensions else ()
        axes.append(axis if axis_size(axis) == size else _axis(None, size))
    return dataclasses.replace(view, axes=tuple(axes))


def reshape(view: View, shape: tuple[int, ...]) -> View | None:
    """None where an atom would have to be cut at what does not divide it."""
    atoms = [atom for axis in view.axes for atom in axis][::-1]
    axes = []
    for size in shape:
        axis: list[Atom] = []
        while (missing := size // axis_size(tuple(axis))) > 1:
            atom = atoms.pop()
            if missing % atom.size == 0:
                axis.append(atom)
            elif atom.size % missing == 0:
                rest = atom.size // missing
                axis.append(Atom(atom.axis, missing, atom.inner * rest))
                atoms.append(Atom(atom.axis, rest, atom.inner))
            else:
                return None
        axes.append(_joined(axis))
    return dataclasses.replace(view, axes=tuple(axes))


def _joined(axis: list[Atom]) -> Axis:
    """Neighbouring factors of one axis as one atom again."""
    done: list[Atom] = []
    for atom in axis:
        last = done[-1] if done else None
        if last and last.axis == atom.axis and last.inner == atom.size * atom.inner:
            done[-1] = Atom(atom.axis, last.size * atom.size, atom.inner)
        else:
            done.append(atom)
    return tuple(done)


def cut(view: View, axis: int, start: Any, size: int) -> View | None:
    """`size` entries from `start`, an int or a traced index, along one axis of the view.

    None where that axis is not a whole free axis of the source.
    """
    if axis_size(view.axes[axis]) == size:
        return view
    atoms = view.axes[axis]
    source = view.source
    if len(atoms) != 1 or atoms[0].axis is None:
        return None
    (atom,) = atoms
    array = source.array
    if array.shape[atom.axis] != atom.size:
        return None

    def part(x, place):
        return jax.lax.dynamic_slice_in_dim(x, start, size, place + x.ndim)

    at = source.at
    if isinstance(array, Leaf):
        if atom.axis not in array.layout.free:
            return None
        array = array.map_free(atom.axis, part)
    elif size == 1:
        array, at = part(array, atom.axis), (*at, (atom.axis, start))
    else:
        return None
    axes = list(view.axes)
    axes[axis] = _axis(atom.axis, size)
    return View(dataclasses.replace(source, array=array, at=at), tuple(axes), view.dtype)
