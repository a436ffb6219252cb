"""shard_map inside a traced function, walked into: each device multiplies by its part of a leaf.

How the parts of a leaf are cut follows from how the dense weight would have been: an axis of the
weight is an axis of its parts, which they share where they have size 1 there. A packed axis may be
cut where whole groups and tiles fall to each device.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.layout import merged_axis
from jaxcomp.formats.leaf import Leaf, part_axis
from jaxcomp.formats.qtensor import QTensor, unpacked
from jaxcomp.lift.call import named
from jaxcomp.lift.view import JOIN, Atom, View
from jaxcomp.lift.walk import Handler, dense, evaluate

Entry = tuple[str, ...]  # names of mesh axes


def shard_map(equation: Any, values: list[Any], handler: Handler) -> list[Any]:
    params = equation.params
    mesh, specs = params["mesh"], params["in_specs"]
    plans: list[_Cut | None] = []
    arrays, array_specs = [], []
    for value, spec in zip(values, specs, strict=True):
        found = _cut(value, spec, mesh.shape) if isinstance(value, View) else None
        paths = value.source.path.split(JOIN) if isinstance(value, View) else []
        if any(path in handler.state for path in paths):
            _check_watched(value, found, params["check_vma"])
        if isinstance(found, str):
            value, found = dense(value, handler, "shard_map", found), None
        plans.append(found)
        arrays.append(value if found is None else jax.tree.leaves(value.source.array))
        array_specs.append(spec if found is None else found.specs)

    def body(state, *arrays):
        handler.state = state
        inside = [
            array if plan is None else plan.local(array)
            for plan, array in zip(plans, arrays, strict=True)
        ]
        out = evaluate(params["jaxpr"], (), inside, handler)
        return handler.state, [dense(v, handler, "shard_map", "it is returned") for v in out]

    everywhere = jax.tree.map(lambda _: PartitionSpec(), handler.state)
    call = jax.shard_map(
        body,
        mesh=mesh,
        in_specs=(everywhere, *array_specs),
        out_specs=(everywhere, list(params["out_specs"])),
        axis_names=set(params["newly_manual_axes"]),
        check_vma=params["check_vma"],
    )
    handler.state, out = call(handler.state, *arrays)
    return out


def check_uncut(path: str, leaf: Any) -> None:
    """UnsupportedInput for a leaf of which a shard_map around lift has cut the packed axis.

    Its arrays hold fewer codes than its static sizes say, and nothing can tell which.
    """
    if isinstance(leaf, QTensor):
        size = math.prod(size for _, size in leaf.packed)
        held = _codes(leaf)
        if held < size:
            raise UnsupportedInput(
                f"{named(path)}: expected the {size} codes of packed axes {leaf.layout.axes}, got "
                f"{held}: a shard_map around lift cuts them; cut free axes, or call shard_map "
                "inside of the function that is lifted"
            )
    for field in dataclasses.fields(leaf):
        value = getattr(leaf, field.name)
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, Leaf):
                check_uncut(path, inner)


def _check_watched(view: View, found: Any, checked: bool) -> None:
    """UnsupportedInput where what multiplies a weight is not known to be counted right.

    Rows of all devices are gathered before they are counted. That needs values of which shard_map
    knows where they differ, and a weight that is whole everywhere: what multiplies the parts of one
    is either the same on every device or not, and nothing says which.
    """
    if not checked:
        why = "inside shard_map(check_vma=False)"
    elif not isinstance(found, _Cut) or any(found.specs[0]):
        why = "cut into parts by shard_map"
    else:
        return
    path = view.source.path
    raise UnsupportedInput(
        f"expected to watch {path} on whole arrays, got it {why}; observe the function without "
        "shard_map, or pass statistic=None"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Cut:
    """How the arrays of a view's source are cut over a mesh, and what a device has of it."""

    view: View
    specs: list[PartitionSpec]
    array: Any  # the source's, whose static fields are those of a device's part
    axes: tuple[tuple[Atom, ...], ...]

    def local(self, parts: list[Any]) -> View:
        array = jax.tree.unflatten(jax.tree.structure(self.array), parts)
        return replace(self.view, source=replace(self.view.source, array=array), axes=self.axes)


def _cut(view: View, spec: PartitionSpec, sizes: Mapping[str, int]) -> _Cut | str:
    """A _Cut by the spec of what the view stands for, or why there is none."""
    array = view.source.array
    entries: dict[int, Entry] = {}
    axes = list(view.axes)
    for i, entry in enumerate(spec):
        names = () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
        count = math.prod(sizes[name] for name in names)
        if count == 1:
            continue
        atom, *rest = axes[i]
        if atom.size % count:
            return f"axis {i} is not cut into whole factors"
        if atom.axis is not None:
            outermost = atom.size * atom.inner == array.shape[atom.axis]
            if not outermost or atom.axis in entries:
                return f"axis {i} is not cut along whole runs of an axis"
            entries[atom.axis] = names
        local = atom._replace(size=atom.size // count)
        axes[i] = (*([local] if local.size > 1 else []), *rest)
    if not isinstance(array, Leaf):
        every = [entries.get(a - array.ndim) for a in range(array.ndim)]
        return _Cut(view, [PartitionSpec(*every)], array, tuple(axes))

    over = [axis for axis in entries if axis not in array.layout.free]
    for axis, names in entries.items():
        if axis not in over and not array.shares(axis, math.prod(sizes[name] for name in names)):
            return f"axis {axis} is not cut into whole blocks"
    packed, place = array.layout.axes, merged_axis(array.packed)
    count = math.prod(sizes[name] for axis in over for name in entries[axis])
    local = array
    if over:
        if len([axis for axis, size in array.packed if size > 1]) > 1:
            return "one of several packed axes is cut"
        found = _fewer(array, count)
        if found is None:
            return f"a packed axis is not cut into whole groups and tiles by {count}"
        local = found

    def part_spec(part):
        every: list[Any] = [None] * part.ndim
        for axis, names in entries.items():
            at = part_axis(array.packed, axis) if axis not in packed else place
            if part.shape[at] > 1:
                every[at] = names
        return PartitionSpec(*every)

    return _Cut(view, [part_spec(p) for p in jax.tree.leaves(array)], local, tuple(axes))


def _fewer(leaf: Any, count: int) -> Any:
    """The leaf with static fields for 1 / count of its packed axis; None if that cuts a group."""
    if not isinstance(leaf, QTensor):
        return None
    size = math.prod(size for _, size in leaf.packed)
    format = leaf.format
    group = 1 if format.group in (None, -1) else format.group
    tile = 1 if leaf.codes.dtype == jnp.int8 else format.tile
    if size % count or size // count % group or size // count % tile:
        return None
    if _codes(leaf) != size:  # filled up at its end
        return None
    changed: dict[str, Any] = {}
    for name in ("scales", "zeros"):
        each = getattr(leaf, name)
        if isinstance(each, QTensor):
            single = math.prod(size for _, size in each.packed) == 1
            changed[name] = each if single else _fewer(each, count)
            if changed[name] is None:
                return None
    packed = tuple((a, n // count if n > 1 else n) for a, n in leaf.packed)
    return replace(leaf, packed=packed, **changed)


def _codes(leaf: QTensor) -> int:
    """How many codes are held along the packed axis."""
    axis = merged_axis(leaf.packed)
    return jax.eval_shape(lambda codes: unpacked(codes, leaf.format, axis), leaf.codes).shape[axis]
