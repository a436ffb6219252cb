"""A convolution as a product: the patches of the signal times a packed kernel.

Patches are strided slices of the padded signal, one per position of the kernel, so values are
copied and never computed. Kernel positions and channels stand as they do in the packed weight.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

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
    batch_axis, channel_axis, *space = numbers.lhs_spec
    x = x.transpose(batch_axis, *space, channel_axis)  # [b, *space, c]
    borders = [(0, 0, 0), *((low, high, 0) for low, high in params["padding"]), (0, 0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), borders)
    steps, spread = params["window_strides"], params["rhs_dilation"]
    sizes = [axis_size(view.axes[i]) for i in positions]
    counts = [
        max(0, (length - (size - 1) * gap - 1) // step + 1)  # none, of a signal shorter than it
        for length, size, gap, step in zip(x.shape[1:-1], sizes, spread, steps, strict=True)
    ]
    found = []
    for at in itertools.product(*map(range, sizes)):
        start = [i * gap if n else 0 for i, gap, n in zip(at, spread, counts, strict=True)]
        stop = [
            s + (n - 1) * step + 1 if n else 0
            for s, n, step in zip(start, counts, steps, strict=True)
        ]
        window = lax.slice(x, [0, *start, 0], [x.shape[0], *stop, x.shape[-1]], [1, *steps, 1])
        found.append(window)
    stacked = jnp.stack(found, -2)  # [b, *counts, positions, c]
    atoms = [atom for i in (*positions, in_axis) for atom in view.axes[i]]
    rows = x.shape[0] * math.prod(counts)
    stacked = stacked.reshape(rows, *(atom.size for atom in atoms))
    stacked = stacked.transpose(0, *(1 + i for i in _order(atoms)))

    def finish(out: jax.Array) -> jax.Array:
        own = view.axes[out_axis]
        order = _order(own)
        out = out.reshape(rows, *(own[i].size for i in order))
        out = out.transpose(0, *(1 + order.index(i) for i in range(len(own))))
        out = out.reshape(x.shape[0], *counts, axis_size(own))  # [b, *counts, out]
        where = [0] * out.ndim
        places = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
        for now, then in enumerate(places):
            where[then] = now
        return out.transpose(where)

    return stacked.reshape(rows, math.prod(atom.size for atom in atoms)), finish


def _order(atoms: list[Atom] | tuple[Atom, ...]) -> list[int]:
    """Which of the atoms stands first in the source, which second, ..."""
    return sorted(range(len(atoms)), key=lambda i: place(atoms[i]))
