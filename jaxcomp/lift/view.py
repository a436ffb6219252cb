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

from jaxcomp.formats.leaf import Leaf, part_axis, repacked

JOIN = " + "  # between the paths of weights that a function joins


class Atom(NamedTuple):
    axis: int | None
    size: int
    inner: int  # the product of what is faster in the same axis


Axis = tuple[Atom, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A selected weight inside a traced function.

    path    of it in the parameters; of joined weights, theirs with " + " in between
    array   a compressed leaf, or the dense array where one only watches
    at      per axis of which a run is left (counted from the right): the first index of the run
    ndim    of the whole weight; axes that loops went over are missing from array
    cuts    axes of which entries apart are left, and those that leaves were joined along
    parts   of dense weights that were joined: each (source, its first index, how many), with
            shapes in place of arrays; and `along`, the axis, which stacked ones do not have
    """

    path: str
    array: Any
    at: tuple[tuple[int, Any], ...] = ()
    ndim: int = 0
    cuts: frozenset[int] = frozenset()
    parts: tuple[tuple["Source", int, int], ...] = ()
    along: int = 0

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
        source = self.source
        same = self.axes == whole(source).axes and self.dtype == source.array.dtype
        return same and not source.at and not source.cuts

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


def mapped(view: View, function: Any) -> View:
    """The view with function(part) in place of every array of its source."""
    array = jax.tree.map(function, view.source.array)
    return dataclasses.replace(view, source=dataclasses.replace(view.source, array=array))


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


def tile(view: View, reps: tuple[int, ...]) -> View:
    """jnp.tile: each axis so many times, one after another."""
    axes = (_axis(None, n) + axis for n, axis in zip(reps, view.axes, strict=True))
    return dataclasses.replace(view, axes=tuple(axes))


def reshape(view: View, shape: tuple[int, ...]) -> View | None:
    """None where an atom would have to be cut at what does not divide it."""
    if 0 in shape:
        return None
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


def cut(view: View, axis: int, start: Any, size: int, step: int = 1) -> View | None:
    """`size` entries from `start`, an int or a traced index, `step` apart, along one axis.

    None where that axis is packed in the source, or is made of factors that the cut goes across.
    Runs of entries are slices of every part; entries apart are copied out of them.
    """
    atoms = view.axes[axis]
    if axis_size(atoms) == size and (step == 1 or size == 1):
        return view
    rest = axis_size(atoms[1:])
    if rest > 1:  # a run of whole blocks of the inner factors
        if not isinstance(start, int) or start % rest or size % rest or step != 1:
            return None
        start, size = start // rest, size // rest
    atom = atoms[0]
    axes = list(view.axes)
    if atom.axis is None:
        axes[axis] = (*_axis(None, size), *atoms[1:])
        return dataclasses.replace(view, axes=tuple(axes))
    array, whole = view.source.array, view.source.array.shape[atom.axis]
    if isinstance(array, Leaf) and atom.axis not in array.loose:
        return None
    outer = whole // (atom.size * atom.inner)

    last = atom.size - 1 - max(0, (size - 1) * step)
    first = start if isinstance(start, int) else jnp.clip(start, 0, last)

    def part(x, place):
        place += x.ndim
        if outer == 1 and step == 1:
            run = size * atom.inner
            return jax.lax.dynamic_slice_in_dim(x, first * atom.inner, run, place)
        blocks = jnp.arange(outer)[:, None, None] * atom.size
        kept = blocks + (first + jnp.arange(size) * step)[:, None]
        kept = kept * atom.inner + jnp.arange(atom.inner)
        return jnp.take(x, kept.reshape(-1), place, mode="clip")

    if isinstance(array, Leaf):
        array = array.map_free(atom.axis, part)
    else:
        array = part(array, atom.axis)
    at, cuts = dict(view.source.at), view.source.cuts
    if outer == 1 and step == 1:
        at[atom.axis] = at.get(atom.axis, 0) + first * atom.inner
    else:
        cuts = cuts | {atom.axis}
    source = dataclasses.replace(view.source, array=array, at=tuple(at.items()), cuts=cuts)

    def shrunk(a: Atom) -> Axis:
        if a == atom:
            return () if size == 1 else (Atom(a.axis, size, a.inner),)
        faster = a.axis == atom.axis and a.inner > atom.inner
        return (Atom(a.axis, a.size, a.inner // atom.size * size) if faster else a,)

    axes = tuple(_joined([new for a in old for new in shrunk(a)]) for old in view.axes)
    return View(source, axes, view.dtype)


def apart(view: View, atom: Atom) -> View | None:
    """The same view, over a leaf that was reshaped to have the atom as an axis; None if packed."""
    leaf, axis = view.source.array, atom.axis
    if not isinstance(leaf, Leaf) or axis not in leaf.loose:
        return None
    sizes = [leaf.shape[axis] // (atom.size * atom.inner), atom.size, atom.inner]
    extra = len(sizes) - 1
    place = part_axis(leaf.packed, axis)

    def split(part):
        at = place + part.ndim
        shared = part.shape[at] == 1 != leaf.shape[axis]
        return part.reshape(
            *part.shape[:at], *([1] * 3 if shared else sizes), *part.shape[at + 1 :]
        )

    def moved(a: Atom) -> Atom:
        if a.axis is None or a.axis > axis:
            return a
        if a.axis < axis:
            return a._replace(axis=a.axis - extra)
        if a == atom:
            return Atom(axis - 1, a.size, 1)
        outer = a.inner > atom.inner
        return Atom(axis - 2, a.size, a.inner // (atom.size * atom.inner)) if outer else a

    array = repacked(jax.tree.map(split, leaf), lambda p: p - extra if p < axis else p)
    cuts = view.source.cuts | {axis}
    source = dataclasses.replace(view.source, array=array, cuts=cuts, ndim=view.source.ndim + extra)
    axes = tuple(tuple(moved(a) for a in old) for old in view.axes)
    return View(source, axes, view.dtype)


def all_apart(view: View, axes: Any) -> View:
    """The same view, where these axes are made of whole axes of the source if that can be."""
    while True:
        shape = view.source.array.shape
        atoms = [a for i in axes for a in view.axes[i] if a.axis is not None]
        part = next((a for a in atoms if a.size < shape[a.axis]), None)
        new = None if part is None else apart(view, part)
        if new is None:
            return view
        view = new


def by_turns(array: Any, length: int) -> tuple[list[Any], Any]:
    """(arrays to loop over, what makes the inner weight of one turn of them): shared ones stay."""
    parts, tree = jax.tree.flatten(array)
    moving = [part if part.shape[0] == length else None for part in parts]

    def inner(turn):
        kept = zip(parts, turn, strict=True)
        return jax.tree.unflatten(tree, [p[0] if t is None else t for p, t in kept])

    return moving, inner


def joined(views: list[View], axis: int) -> View | str:
    """Views one after another along an axis, as one view; or why not.

    All of compressed leaves, or all of dense weights, which keep their parts.
    """
    first = views[0]
    leaves = [view.source.array for view in views]
    packed = isinstance(leaves[0], Leaf)
    if any(isinstance(leaf, Leaf) != packed for leaf in leaves):
        return "what it is joined to is not compressed"
    if len({jax.tree.structure(leaf) for leaf in leaves}) > 1:
        return "their formats differ"
    others = {view.axes[:axis] + view.axes[axis + 1 :] for view in views}
    if len(others) > 1 or len({view.dtype for view in views}) > 1:
        return "their layouts differ"
    ndim = first.source.ndim
    if not any(view.axes[axis] for view in views):  # stacked
        place = -len(first.source.array.shape) - 1
        leaves = [jax.tree.map(lambda part: part[None], leaf) for leaf in leaves]
        sizes, ndim = [1] * len(leaves), ndim + 1
    else:
        atoms = {tuple((a.axis, a.inner) for a in view.axes[axis]) for view in views}
        if len(atoms) > 1 or len(first.axes[axis]) != 1 or first.axes[axis][0].axis is None:
            return "they are not joined along one whole axis"
        place = first.axes[axis][0].axis
        sizes = [leaf.shape[place] for leaf in leaves]
        free = not packed or place in first.source.array.loose
        if not free or sizes != [v.shape[axis] for v in views]:
            return "they are not joined along one whole axis"
    parts = () if packed else _parts([view.source for view in views], place, sizes)
    if parts is None:
        return "they are in a loop, or joined along another axis"
    if packed and not _alike(leaves, place):
        return "their parts differ in size"
    join = _joiner(leaves, place, sizes) if packed else jnp.concatenate(leaves, place)
    if join is None:
        return "they share values along that axis"
    axes = list(first.axes)
    axes[axis] = _axis(place, sum(sizes))
    path = JOIN.join(dict.fromkeys(view.source.path for view in views))
    cuts = frozenset().union(*(view.source.cuts for view in views), (place,) if packed else ())
    source = Source(path, join, (), ndim, cuts, parts, place)
    return View(source, tuple(axes), first.dtype)


def _parts(sources: list[Source], along: int, sizes: list[int]) -> tuple[Any, ...] | None:
    """Source.parts of dense weights; None where the axis would not be told from another one."""
    found, start = [], 0
    for source, size in zip(sources, sizes, strict=True):
        looped = along < -len(source.array.shape) and source.ndim > len(source.array.shape)
        if looped or source.parts and (source.along != along or source.at or source.cuts):
            return None
        shape = jax.ShapeDtypeStruct(source.array.shape, source.array.dtype)
        own = ((dataclasses.replace(source, array=shape), 0, size),)
        found += [(part, start + i, n) for part, i, n in source.parts or own]
        start += size
    return tuple(found)


def _alike(leaves: list[Leaf], axis: int) -> bool:
    """Whether their parts have the same sizes but along one free axis."""
    place = part_axis(leaves[0].packed, axis)

    def rest(part):
        return part.shape[: part.ndim + place] + part.shape[part.ndim + place :][1:]

    return len({tuple(map(rest, leaf.parts)) for leaf in leaves}) == 1


def _joiner(leaves: list[Leaf], axis: int, sizes: list[int]) -> Leaf | None:
    """The leaves as one along a free axis; None if what they share is too large to be repeated."""
    place = part_axis(leaves[0].packed, axis)
    largest = max(part.size for leaf in leaves for part in leaf.parts)
    repeated = False

    def join(*parts):
        nonlocal repeated
        wide = []
        for part, size in zip(parts, sizes, strict=True):
            shape = list(part.shape)
            shape[place] = size
            # What is shared may only be repeated where it is little.
            repeated |= part.shape[place] != size and math.prod(shape) > largest // 4
            wide.append(jnp.broadcast_to(part, shape))
        return jnp.concatenate(wide, place)

    found = jax.tree.map(join, *leaves)
    return None if repeated else found
