"""Rows of a packed weight: gathers (embeddings), batches of matrices, ragged products."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.formats.leaf import Leaf, part_axis, repacked
from jaxcomp.kernels.dispatch import align
from jaxcomp.lift.view import Atom, View, all_apart, by_turns, whole


def batch_first(leaf: Leaf, axes: tuple[int, ...]) -> Leaf:
    """The leaf with these free axes in front of the others."""
    rank = leaf.ndim
    if axes == tuple(range(-rank, -rank + len(axes))):
        return leaf
    places = [part_axis(leaf.packed, axis) for axis in axes]
    moved = jax.tree.map(lambda part: jnp.moveaxis(part, places, range(len(places))), leaf)
    return repacked(moved, lambda axis: axis + sum(b > axis for b in axes))


class _Lookup(NamedTuple):
    """A gather of single entries along some axes and of all the others whole."""

    leaf: Leaf  # the axes that are looked up along stand first
    indices: jax.Array  # [..., number of those axes]
    rest: View  # what one entry is, over a source that has lost those axes


def find(view: View, indices: jax.Array, equation: Any) -> _Lookup | str:
    """The lookup that a gather is, or why it is none."""
    numbers = equation.params["dimension_numbers"]
    sizes = equation.params["slice_sizes"]
    paired, gone = numbers.operand_batching_dims, numbers.collapsed_slice_dims
    # What is taken whole can begin nowhere else; `_inside` minds those that must not.
    chosen = [(k, i) for k, i in enumerate(numbers.start_index_map) if sizes[i] != view.shape[i]]
    along = [i for _, i in chosen]
    if any(sizes[i] != 1 for i in along) or any(
        size != view.shape[i] for i, size in enumerate(sizes) if i not in (*along, *paired)
    ):
        return "it is not a lookup of whole rows"
    indices = indices[..., [k for k, _ in chosen]] if chosen else indices[..., :0]
    for own, theirs in zip(paired, numbers.start_indices_batching_dims, strict=True):
        mine = lax.broadcasted_iota(indices.dtype, (*indices.shape[:-1], 1), theirs)
        indices, along = jnp.concatenate([indices, mine], -1), [*along, own]
    view = all_apart(view, along)
    leaf = view.source.array
    axes, order = [], []
    for k, i in enumerate(along):
        if not view.axes[i]:
            continue  # an axis of size 1 has one entry
        (atom, *more) = view.axes[i]
        if more or atom.axis is None or atom.size != leaf.shape[atom.axis]:
            return "it looks up along a part of an axis"
        if atom.axis not in leaf.layout.free:
            return f"it looks up along an axis that is packed, {leaf.layout.axes}"
        if atom.axis not in leaf.loose and leaf.layout.free != (atom.axis,):
            return "it looks up along an axis that is coded in blocks"
        axes.append(atom.axis)
        order.append(k)
    indices = indices[..., order] if order else indices[..., :0]

    def moved(atom: Atom) -> Atom:
        shift = 0 if atom.axis is None else sum(axis > atom.axis for axis in axes)
        return atom if atom.axis is None else atom._replace(axis=atom.axis + shift)

    first = batch_first(leaf, tuple(axes))
    others = [i for i in range(len(sizes)) if i not in (*gone, *paired)]
    kept = tuple(() if i in along else tuple(map(moved, view.axes[i])) for i in others)
    return _Lookup(first, indices, dataclasses.replace(view, axes=kept))


def one(view: View, indices: jax.Array, equation: Any) -> View | None:
    """A gather of one entry, x[i] of stacked layers, as a view that stays packed; else None.

    Where i lies outside and NaN is asked for, every float of the entry becomes NaN.
    """
    params = equation.params
    fills, fill = params["mode"] == lax.GatherScatterMode.FILL_OR_DROP, params["fill_value"]
    if indices.ndim != 1 or (fills and fill is not None and not math.isnan(fill)):
        return None
    found = find(view, indices, equation)
    if isinstance(found, str):
        return None
    if not found.leaf.loose and found.indices.size:
        return None  # blocks of rows have to be decoded
    leaf = jax.tree.map(_taker(found, found.leaf.shape), found.leaf)
    if fills:
        inside = _inside(view, indices, equation)

        def poison(part):
            floats = jnp.issubdtype(part.dtype, jnp.floating)
            return jnp.where(inside, part, jnp.asarray(jnp.nan, part.dtype)) if floats else part

        if not any(jnp.issubdtype(part.dtype, jnp.floating) for part in leaf.parts):
            return None
        leaf = jax.tree.map(poison, leaf)
    source = dataclasses.replace(found.rest.source, array=leaf)
    return dataclasses.replace(found.rest, source=source)


def _taker(found: _Lookup, shape: tuple[int, ...]):
    """part -> its entries: [*indices.shape[:-1], *the other axes]."""
    count, deep = found.indices.ndim - 1, found.indices.shape[-1]

    def take(x):
        if not deep:
            return jnp.broadcast_to(x, (*found.indices.shape[:-1], *x.shape))
        shared = [x.shape[i] == 1 != shape[i] for i in range(deep)]
        if all(shared):
            return x.reshape(*[1] * count, *x.shape[deep:])
        inner = x.ndim - deep
        return lax.gather(
            x,
            jnp.where(jnp.asarray(shared), 0, found.indices),
            lax.GatherDimensionNumbers(
                offset_dims=tuple(range(count, count + inner)),
                collapsed_slice_dims=tuple(range(deep)),
                start_index_map=tuple(range(deep)),
            ),
            (*[1] * deep, *x.shape[deep:]),
            mode=lax.GatherScatterMode.CLIP,  # what lies outside is filled in after
        )

    return take


def rows(view: View, indices: jax.Array, equation: Any) -> jax.Array:
    """The result of a gather that `find` found to be a lookup."""
    found = find(view, indices, equation)
    count = indices.ndim - 1
    if found.leaf.loose or not found.indices.shape[-1]:
        entries = jax.tree.map(_taker(found, found.leaf.shape), found.leaf).dense()
    else:
        entries = found.leaf.taken(found.indices[..., 0])
    lead = tuple((Atom(i - entries.ndim, entries.shape[i], 1),) for i in range(count))
    lead = tuple(() if axis[0].size == 1 else axis for axis in lead)
    source = dataclasses.replace(view.source, array=entries)
    result = View(source, (*lead, *found.rest.axes), view.dtype).dense()
    result = _filled(result, view, indices, equation)
    offsets = equation.params["dimension_numbers"].offset_dims
    outer = iter(range(count))
    inner = iter(range(count, result.ndim))
    order = [next(inner) if i in offsets else next(outer) for i in range(result.ndim)]
    return result.transpose(order).astype(equation.outvars[0].aval.dtype)


def _inside(view: View, indices: jax.Array, equation: Any) -> jax.Array:
    along = equation.params["dimension_numbers"].start_index_map
    sizes = equation.params["slice_sizes"]
    limits = jnp.asarray([view.shape[i] - sizes[i] for i in along], indices.dtype)
    return ((indices >= 0) & (indices <= limits)).all(-1)


def _filled(result: jax.Array, view: View, indices: jax.Array, equation: Any) -> jax.Array:
    """What a dense gather would have put in place of rows that are not there."""
    if equation.params["mode"] != lax.GatherScatterMode.FILL_OR_DROP:
        return result
    inside = _inside(view, indices, equation)
    fill = equation.params["fill_value"]
    fill = jnp.nan if fill is None else fill
    wide = inside.reshape(*inside.shape, *[1] * (result.ndim - inside.ndim))
    return jnp.where(wide, result, jnp.asarray(fill, result.dtype))


def ragged(view: View, x: jax.Array, sizes: jax.Array, equation: Any) -> Any:
    """x [rows, in] times matrices [groups, in, out], each for the next sizes[g] rows; or why not.

    One matrix after another over all rows, those of others left out: groups times the work, and
    never more than one packed matrix at a time.
    """
    numbers = equation.params.get("ragged_dot_dimension_numbers")
    leaf = view.source.array
    if view.axes != whole(view.source).axes or leaf.ndim != 3 or x.ndim != 2:
        return "it is not rows times a stack of matrices"
    if numbers is not None:
        (over, _), _ = numbers.dot_dimension_numbers
        if tuple(over) != (1,) or tuple(numbers.rhs_group_dimensions) != (0,):
            return "it is not rows times a stack of matrices"
        if tuple(numbers.dot_dimension_numbers[0][1]) != (1,):
            return "it is not rows times a stack of matrices"
    if leaf.layout.axes != (-2,):
        return f"it sums over axis (-2,), and is packed along {leaf.layout.axes}"
    ends = jnp.cumsum(sizes)
    row = jnp.arange(x.shape[0], dtype=ends.dtype)

    def step(total, group):
        turn, end, size = group
        matrix = inner(turn)
        mine = (row < end) & (row >= end - size)
        return total + jnp.where(mine[:, None], matrix.matmul(x), 0), None

    aval = equation.outvars[0].aval
    wide = jnp.promote_types(x.dtype, aval.dtype)
    x = x.astype(wide)
    out, *_ = align(jnp.zeros(aval.shape, wide), x, sizes, *leaf.parts)
    moving, inner = by_turns(leaf, leaf.shape[0])
    return lax.scan(step, out, (moving, ends, sizes))[0].astype(aval.dtype)
