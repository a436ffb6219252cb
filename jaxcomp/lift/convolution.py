"""A convolution as a product: the patches of the signal times a packed kernel.

Patches are strided slices of the padded signal, one per position of the kernel, so values are
copied and never computed. Kernel positions and channels stand as they do in the packed weight.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.lift.view import Atom, View, whole


def summed_axes(view: View, params: dict[str, Any]) -> tuple[int, ...] | str:
    """The kernel's axes that the convolution sums over, counted from the right, or why not."""
    rank = len(view.source.array.shape)
    order = _order(view)
    if order is None:
        return "the kernel is not laid out as it is stored"
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return "grouped convolutions are not products with one matrix"
    if any(d != 1 for d in params["lhs_dilation"]):
        return "transposed convolutions are not products with one matrix"
    return tuple(sorted(order[i] - rank for i in params["dimension_numbers"].rhs_spec[1:]))


def patches(
    view: View, x: jax.Array, params: dict[str, Any], packed: tuple[int, ...]
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """([rows, in] of the signal, [rows, out] -> the convolution's result).

    packed: what summed_axes found; the columns of rows are in their order.
    """
    leaf = view.source.array
    rank = len(leaf.shape)
    numbers = params["dimension_numbers"]
    order = _order(view)
    # rhs_spec: (output channels, input channels, *positions) as axes of the view
    _, in_axis, *positions = (order[i] for i in numbers.rhs_spec)
    batch_axis, channel_axis, *space = numbers.lhs_spec
    x = x.transpose(batch_axis, *space, channel_axis)  # [b, *space, c]
    x = lax.pad(
        x,
        jnp.zeros((), x.dtype),
        [(0, 0, 0), *((low, high, 0) for low, high in params["padding"]), (0, 0, 0)],
    )
    steps, spread = params["window_strides"], params["rhs_dilation"]
    sizes = [leaf.shape[i] for i in positions]
    counts = [
        (length - (size - 1) * gap - 1) // step + 1
        for length, size, gap, step in zip(x.shape[1:-1], sizes, spread, steps, strict=True)
    ]
    found = []
    for at in itertools.product(*map(range, sizes)):
        start = [i * gap for i, gap in zip(at, spread, strict=True)]
        stop = [
            s + (count - 1) * step + 1 for s, count, step in zip(start, counts, steps, strict=True)
        ]
        window = lax.slice(x, [0, *start, 0], [x.shape[0], *stop, x.shape[-1]], [1, *steps, 1])
        found.append(window)
    stacked = jnp.stack(found, -2)  # [b, *counts, positions, c]
    stacked = stacked.reshape(-1, *sizes, x.shape[-1])  # [rows, *positions, c]
    names = [*positions, in_axis]
    stacked = stacked.transpose(0, *(1 + names.index(axis + rank) for axis in packed))
    rows = stacked.reshape(stacked.shape[0], -1)

    def finish(out: jax.Array) -> jax.Array:
        out = out.reshape(x.shape[0], *counts, -1)  # [b, *counts, out]
        where = [0] * out.ndim
        for now, then in enumerate(
            (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
        ):
            where[then] = now
        return out.transpose(where)

    return rows, finish


def _order(view: View) -> list[int] | None:
    """The source's axis, from the left, behind each axis of the view; None if not a permutation."""
    rank = len(view.axes)
    shape = view.source.array.shape
    if len(shape) != rank:
        return None
    if view.axes == whole(view.source).axes:
        return list(range(rank))
    found = []
    for axis in view.axes:
        if (
            len(axis) != 1
            or axis[0].axis is None
            or axis[0] != Atom(axis[0].axis, shape[axis[0].axis], 1)
        ):
            return None
        found.append(axis[0].axis + rank)
    return found
