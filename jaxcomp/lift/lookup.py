"""Rows of a packed weight: gathers (embeddings), batches of matrices, ragged products."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.formats.leaf import Leaf, part_axis, repacked
from jaxcomp.lift.view import View, whole


def batch_first(leaf: Leaf, axes: tuple[int, ...]) -> Leaf:
    """The leaf with these free axes in front of the others."""
    rank = leaf.ndim
    if axes == tuple(range(-rank, -rank + len(axes))):
        return leaf
    places = [part_axis(leaf.packed, axis) for axis in axes]
    moved = jax.tree.map(lambda part: jnp.moveaxis(part, places, range(len(places))), leaf)
    return repacked(moved, lambda axis: axis + sum(b > axis for b in axes))


def rows(view: View, indices: jax.Array, equation: Any) -> Any:
    """A gather of single entries along free axes and of all the others whole; or why not."""
    leaf = view.source.array
    numbers = equation.params["dimension_numbers"]
    sizes = equation.params["slice_sizes"]
    if view.axes != whole(view.source).axes:
        return "the weight is not looked up as it is stored"
    rank = leaf.ndim
    along = numbers.start_index_map
    if numbers.operand_batching_dims or tuple(sorted(along)) != numbers.collapsed_slice_dims:
        return "it is not a lookup of rows"
    if any(sizes[i] != (1 if i in along else leaf.shape[i]) for i in range(rank)):
        return "it is not a lookup of whole rows"
    if any(i - rank not in leaf.layout.free for i in along):
        return f"it looks up along an axis that is packed, {leaf.layout.axes}"
    if along != tuple(range(len(along))):
        return "it looks up along an axis that is not the first"
    count = indices.ndim - 1
    outer = tuple(i for i in range(count + rank - len(along)) if i not in numbers.offset_dims)
    if outer != tuple(range(count)):
        return "its results do not stand behind their indices"

    def part(x):
        if any(x.shape[i] == 1 != leaf.shape[i] for i in along):
            return jnp.broadcast_to(
                x[(0,) * len(along)], (*indices.shape[:-1], *x.shape[len(along) :])
            )
        inner = x.ndim - len(along)
        return lax.gather(
            x,
            indices,
            lax.GatherDimensionNumbers(
                offset_dims=tuple(range(count, count + inner)),
                collapsed_slice_dims=tuple(range(len(along))),
                start_index_map=along,
            ),
            (*[1] * len(along), *x.shape[len(along) :]),
            mode=lax.GatherScatterMode.CLIP,  # what lies outside is filled in after
        )

    found = jax.tree.map(part, leaf)
    result = found.dense().astype(equation.outvars[0].aval.dtype)
    return _filled(result, view, indices, along, equation)


def _filled(result, view, indices, along, equation):
    """What a dense gather would have put in place of rows that are not there."""
    if equation.params["mode"] != lax.GatherScatterMode.FILL_OR_DROP:
        return result
    limits = jnp.asarray([view.source.array.shape[i] for i in along], indices.dtype)
    inside = ((indices >= 0) & (indices < limits)).all(-1)
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
    if any(part.shape[0] != leaf.shape[0] for part in leaf.parts):
        return "its matrices share a scale"
    ends = jnp.cumsum(sizes)
    row = jnp.arange(x.shape[0], dtype=ends.dtype)

    def step(total, group):
        matrix, end, size = group
        mine = (row < end) & (row >= end - size)
        return total + jnp.where(mine[:, None], matrix.matmul(x), 0), None

    out = jnp.zeros((x.shape[0], leaf.shape[-1]), equation.outvars[0].aval.dtype)
    return lax.scan(step, out, (leaf, ends, sizes))[0]
