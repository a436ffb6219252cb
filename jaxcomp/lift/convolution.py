"""A convolution whose kernel is a view, as the product of patches (formats/convolution.py)."""

import math
from collections.abc import Callable
from typing import Any

import jax

from jaxcomp.formats import convolution
from jaxcomp.formats.leaf import Leaf
from jaxcomp.lift.view import Atom, View, axis_size, place, whole, whole_axes


def summed_axes(view: View, params: dict[str, Any]) -> tuple[int, ...] | str:
    """The kernel's axes that the convolution sums over, counted from the right, or why not."""
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return "grouped convolutions are not products with one matrix"
    if any(d != 1 for d in params["lhs_dilation"]):
        return "transposed convolutions are not products with one matrix"
    out_axis, *others = params["dimension_numbers"].rhs_spec
    shape = view.source.array.shape
    atoms = [atom for i in others for atom in view.axes[i]]
    if any(atom.axis is None for axis in view.axes for atom in axis):
        return "the kernel is repeated"
    summed = whole_axes(atoms, shape)
    outer = whole_axes(list(view.axes[out_axis]), shape)
    if summed is None or outer is None:
        return "it is multiplied along a part of an axis"
    if not isinstance(view.source.array, Leaf) and view.source.cuts & {*summed, *outer}:
        return "it is multiplied along a part of an axis"
    # Axes of size 1 belong to no operation. Those of a kernel that has no others are summed over.
    ones = [i - len(shape) for i, size in enumerate(shape) if size == 1]
    if len(shape) != len(view.axes):
        return summed
    if not outer and ones:
        same = view.axes == whole(view.source).axes
        ones.remove(out_axis - len(shape) if same else ones[-1])
    return tuple(sorted({*summed, *ones}))


def patches(
    view: View, x: jax.Array, params: dict[str, Any], packed: tuple[int, ...]
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """([rows, in] of the signal, [rows, *free axes] -> the convolution's result).

    packed: what summed_axes found; the columns of rows are in their order.
    """
    numbers = params["dimension_numbers"]
    out_axis, in_axis, *positions = numbers.rhs_spec
    found = convolution.patches(
        x,
        [axis_size(view.axes[i]) for i in positions],
        numbers,
        *(params[name] for name in ("window_strides", "padding", "rhs_dilation")),
    )
    *front, _, _ = found.shape
    rows = math.prod(front)
    atoms = [atom for i in (*positions, in_axis) for atom in view.axes[i]]
    stacked = found.reshape(rows, *(atom.size for atom in atoms))
    stacked = stacked.transpose(0, *(1 + i for i in _order(atoms)))

    def finish(out: jax.Array) -> jax.Array:
        own = view.axes[out_axis]
        order = _order(own)
        out = out.reshape(rows, *(own[i].size for i in order))
        out = out.transpose(0, *(1 + order.index(i) for i in range(len(own))))
        return convolution.laid_out(out.reshape(*front, axis_size(own)), numbers)

    return stacked.reshape(rows, math.prod(atom.size for atom in atoms)), finish


def _order(atoms: list[Atom] | tuple[Atom, ...]) -> list[int]:
    """Which of the atoms stands first in the source, which second, ..."""
    return sorted(range(len(atoms)), key=lambda i: place(atoms[i]))
