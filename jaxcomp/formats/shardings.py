"""How the parts of a leaf lie on a mesh when its dense weight would lie as told.

Free axes go as the weight's. The merged axis goes as the packed axis that is first among them, in
the parts that run along it: codes, and scales where there are as many as devices can share. All
other parts are the same on every device along it.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.layout import merged_axis
from jaxcomp.formats.leaf import Leaf, is_leaf, part_axis


def shardings(leaf: Leaf, spec: PartitionSpec, mesh: Mesh | None = None) -> Any:
    """A leaf with a NamedSharding in place of each part; without a mesh, a PartitionSpec.

    spec: of the dense weight. With a mesh, sizes are checked: UnsupportedInput where codes cannot
    be divided, and scales that cannot be are replicated. Without one, what has size 1 is.
    """
    if len(spec) > leaf.ndim:
        raise UnsupportedInput(
            f"expected a spec of at most {leaf.ndim} axes for a weight {leaf.shape}, got {spec}; "
            "name the axes of the dense weight"
        )
    names = [*spec, *[None] * (leaf.ndim - len(spec))]
    axes = leaf.layout.axes
    if any(names[axis] is not None for axis in axes[1:]):
        raise UnsupportedInput(
            f"expected of the packed axes {axes} only {axes[0]} in the spec, got {spec}; they are "
            "merged, and only the first can be cut"
        )
    wanted = {part_axis(leaf.packed, a): names[a] for a in leaf.layout.free}
    wanted[merged_axis(leaf.packed)] = names[axes[0]]
    return _each(leaf, _Wanted(wanted, merged_axis(leaf.packed), mesh), True, True)


class _Wanted(NamedTuple):
    """The mesh axes of each axis of a part, and which of them is the merged one."""

    names: dict[int, Any]
    merged: int
    mesh: Mesh | None


def _each(leaf: Leaf, wanted: _Wanted, along: bool, must: bool) -> Any:
    """The leaf with shardings.

    along: it runs along the packed axes, or its `follows` do; must: the first of these has to.
    """
    inner = [x for x in jax.tree.leaves(vars(leaf), is_leaf=is_leaf) if isinstance(x, Leaf)]
    if along and wanted.names[wanted.merged] and not leaf.follows and not inner:
        raise UnsupportedInput(
            f"expected a spec without a packed axis for {leaf.describe()}, whose parts do not run "
            "along it; shard its free axes"
        )

    def one(name, value):
        if isinstance(value, Leaf):
            whole = value.packed == leaf.packed  # a term of a sum, not the scales of codes
            return _each(value, wanted, along and (whole or name in leaf.follows), must and whole)
        if isinstance(value, tuple):
            return tuple(one(name, x) for x in value)
        if value is None:
            return None
        first = name in leaf.follows[:1]
        return _sharding(value, wanted, along and name in leaf.follows, must and first)

    fields = [f.name for f in dataclasses.fields(leaf) if not f.metadata.get("static")]
    return dataclasses.replace(leaf, **{name: one(name, getattr(leaf, name)) for name in fields})


def _sharding(part: jax.Array, wanted: _Wanted, along: bool, must: bool) -> Any:
    names = []
    for axis, size in zip(range(-part.ndim, 0), part.shape, strict=True):
        name = wanted.names[axis]
        if size == 1 or (axis == wanted.merged and not along):
            name = None
        if name is not None and wanted.mesh is not None:
            devices = math.prod(
                wanted.mesh.shape[n] for n in ([name] if type(name) is str else name)
            )
            if size % devices and axis == wanted.merged and not must:
                name = None
            elif size % devices:
                raise UnsupportedInput(
                    f"expected {size} stored along an axis to be a multiple of {devices} devices, "
                    "got a rest; shard another axis, or choose smaller groups"
                )
        names.append(name)
    spec = PartitionSpec(*names)
    return spec if wanted.mesh is None else NamedSharding(wanted.mesh, spec)
