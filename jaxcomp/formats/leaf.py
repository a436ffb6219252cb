"""What every compressed leaf is: a pytree that stands for a dense array, and is multiplied as one.

A leaf is a dataclass of arrays (its parts) and static fields. Each part has the weight's free axes,
of their size or of size 1 where it is shared, and one more axis in place of the packed ones (see
layout.py). Leading axes may therefore be sliced off, or stacked, in all parts at once: scan, vmap,
shard_map and jax.tree.map keep a leaf valid.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.layout import Layout, Packed, free_index, logical_shape, merged_axis


class Leaf:
    """A compressed weight. Subclasses are `leaf_class` dataclasses that define dense and matmul.

    packed: the axes that products sum over, with their true sizes, counted from the right.
    dtype: of the dense weight.
    follows: the fields whose merged axis runs along the packed ones, by codes or by groups.
    decoded: whether products are those of the dense weight itself, made just before.
    """

    packed: Packed
    dtype: Any
    follows: ClassVar[tuple[str, ...]] = ()
    decoded: ClassVar[bool] = False

    def dense(self) -> jax.Array:
        """The weight itself, in its shape and dtype."""
        raise NotImplementedError

    def matmul(self, x: jax.Array) -> jax.Array:
        """x [m, in] -> x times the weight, [m, *free axes], in x's dtype, summed in float32.

        `in` merges the packed axes in their order. Parts are never expanded to a dense weight where
        `describe` names a kernel.
        """
        raise NotImplementedError

    def describe(self) -> str:
        """What the leaf is made of, in a few characters, for reports."""
        raise NotImplementedError

    def kernel(self, platform: str, dtype: Any = None) -> tuple[str, str]:
        """(what multiplies it on "cpu", "cuda" or "tpu", why not something faster, if so).

        dtype: of x; the leaf's own where it is not given.
        """
        raise NotImplementedError

    @property
    def parts(self) -> list[Any]:
        return jax.tree.leaves(self)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense weight."""
        parts = self.parts
        rank = parts[0].ndim
        axis = merged_axis(self.packed) + rank
        free = [1 if i == axis else max(p.shape[i] for p in parts) for i in range(rank)]
        return logical_shape(free, self.packed)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all parts: codes, scales, zeros, tables, factors."""
        return sum(part.size * part.dtype.itemsize for part in self.parts)

    @property
    def layout(self) -> Layout:
        return Layout(self.shape, tuple(axis for axis, _ in self.packed))

    @property
    def loose(self) -> tuple[int, ...]:
        """The free axes along which parts may be cut, picked from and joined, anywhere."""
        return self.layout.free

    def shares(self, axis: int, count: int) -> bool:
        """Whether `count` devices can each have an equal run of a free axis, in parts of it."""
        return self.shape[axis] % count == 0

    def __array__(self, *_, **__):
        raise UnsupportedInput(
            f"expected an array, got a {type(self).__name__}: a compressed weight; call "
            "jc.lift(fn) on the function that uses it, or leaf.dense()"
        )

    __jax_array__ = __array__

    def __getitem__(self, index: Any) -> "Leaf":
        """leaf[1], leaf[..., 2:5]: along free axes, by ints and slices, and still packed.

        UnsupportedInput for a packed axis that is not taken whole, and for indices of other kinds:
        formats.take looks up by arrays.
        """
        keys = free_index(self.layout, index)
        places = [part_axis(self.packed, axis) for axis in self.layout.free]
        sizes = [self.shape[axis] for axis in self.layout.free]
        own = [keys[axis] for axis in self.layout.free]
        for axis, size, key in zip(self.layout.free, sizes, own, strict=True):
            if not isinstance(key, slice) or range(size)[key] != range(size):
                self._check_loose(axis)

        def cut(part):
            at = [slice(None)] * part.ndim
            for place, size, key in zip(places, sizes, own, strict=True):
                shared = part.shape[place] == 1 != size  # by all along this axis
                at[place] = key if not shared else slice(None) if isinstance(key, slice) else 0
            return part[tuple(at)]

        gone = [axis for axis in self.layout.free if not isinstance(keys[axis], slice)]
        return repacked(jax.tree.map(cut, self), lambda a: a + sum(axis > a for axis in gone))

    @staticmethod
    def alike(leaves: "list[Leaf]") -> "list[Leaf]":
        """The same leaves, of matrices of one shape, with parts of one shape: to be stacked."""
        return leaves

    def taken(self, indices: jax.Array) -> jax.Array:
        """Rows along the one free axis of a leaf that cannot be cut there; see Lossless."""
        raise NotImplementedError

    def _check_loose(self, axis: int) -> None:
        if axis not in self.loose:
            raise UnsupportedInput(
                f"expected axis {axis} of {self.describe()} whole, which is coded in blocks along "
                "it; cut dense(w)"
            )

    __iter__ = None  # nor is a leaf a sequence: jax.tree.map and scan go over stacked ones

    def map_free(self, axis: int, function: Callable[[jax.Array, int], jax.Array]) -> "Leaf":
        """The leaf with function(part, axis) in place of every part that has the free axis.

        axis is counted from the right in the weight; the axis of a part is counted so too. The
        function must keep the rank.
        """
        self._check_loose(axis)
        place = part_axis(self.packed, axis)
        whole = self.shape[axis]
        return jax.tree.map(
            lambda part: part if part.shape[place] == 1 != whole else function(part, place), self
        )


def part_axis(packed: Packed, axis: int) -> int:
    """Where free axis `axis` of a weight stands in its parts; both counted from the right."""
    right = [a for a, _ in packed if a > axis]  # all of them are merged into one
    return axis + len(right) - 1 if right else axis


def is_shared(part: Any, packed: Packed) -> bool:
    """Whether a part has one value for all outputs: its free axes have size 1."""
    return part.size == part.shape[merged_axis(packed)]


def repacked(leaf: Leaf, move: Callable[[int], int]) -> Leaf:
    """The leaf, and leaves that it is made of, with packed axis move(a) in place of each a."""

    def each(name, value):
        if name == "packed":
            return tuple((move(axis), size) for axis, size in value)
        if isinstance(value, tuple) and any(isinstance(x, Leaf) for x in value):
            return tuple(repacked(x, move) for x in value)
        return repacked(value, move) if isinstance(value, Leaf) else value

    fields = [field.name for field in dataclasses.fields(leaf)]
    return dataclasses.replace(leaf, **{name: each(name, getattr(leaf, name)) for name in fields})


def map_leading(
    function: Callable[..., jax.Array], leaf: Leaf, *arrays: jax.Array, out_axis: int = 0
) -> jax.Array:
    """vmap of function(leaf, *arrays) over the leading axis of all of them, a free one of the leaf.

    Parts that share one value along that axis are not repeated.
    """
    parts, tree = jax.tree.flatten(leaf)
    size = max(part.shape[0] for part in parts)
    over = tuple(None if part.shape[0] != size else 0 for part in parts)
    parts = [part[0] if axis is None else part for part, axis in zip(parts, over, strict=True)]

    def one(parts, *arrays):
        return function(jax.tree.unflatten(tree, parts), *arrays)

    return jax.vmap(one, (over, *[0] * len(arrays)), out_axis)(tuple(parts), *arrays)


def leaf_class(cls):
    """A frozen dataclass, registered as a pytree: `static()` fields are not arrays."""
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(cls)
    static = [f.name for f in fields if f.metadata.get("static")]
    jax.tree_util.register_dataclass(cls, [f.name for f in fields if f.name not in static], static)
    return cls


def static(**options):
    """A field of a leaf class that is no array: hashable, part of the tree's structure."""
    return dataclasses.field(metadata={"static": True}, **options)


def is_leaf(x: Any) -> bool:
    """For jax.tree functions: whether x is a compressed leaf."""
    return isinstance(x, Leaf)


def dense(w: Any) -> jax.Array:
    """The dense array of a compressed leaf, or an array itself."""
    return w.dense() if isinstance(w, Leaf) else jnp.asarray(w)


def check_floating(x: Any, what: str) -> None:
    """UnsupportedInput for an array of integers or complex numbers: it would be cut to the grid."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UnsupportedInput(
            f"expected {what} of a floating dtype, got {x.dtype}; cast it, {what}.astype(float32)"
        )
