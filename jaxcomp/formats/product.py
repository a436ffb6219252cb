"""Products with compressed leaves: dot, take, and the matrix product that lift is made of."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.leaf import Leaf, check_floating, map_leading


def dot(x: jax.Array, w: Any) -> jax.Array:
    """x [..., *packed axes of w] -> [..., *free axes of w], in x's dtype, summed in float32.

    For w a kernel [in, out], or [out, in] packed along its last axis: x [..., in] -> [..., out].
    w may be an array, whose axis -2 is summed over. UnsupportedInput if the sizes differ,
    or for an x of integers times a leaf.
    """
    if not isinstance(w, Leaf):
        return jnp.matmul(x, w)
    check_floating(x, "x")
    sizes = tuple(size for _, size in w.packed)
    count = len(sizes)
    if x.shape[x.ndim - count :] != sizes:
        raise UnsupportedInput(
            f"expected x of shape [..., {', '.join(map(str, sizes))}], got {x.shape}; "
            "its last axes are those that w is packed along"
        )
    rows = x.shape[: x.ndim - count]
    out = w.matmul(x.reshape(math.prod(rows), math.prod(sizes)))
    return out.reshape(*rows, *out.shape[1:])


def batched(x: jax.Array, w: Leaf, batch: int) -> jax.Array:
    """x [*batch, m, in] times w, whose first `batch` axes are x's -> [*batch, m, *free]."""
    if not batch:
        return w.matmul(x)
    return map_leading(lambda w, x: batched(x, w, batch - 1), w, x)


def take(w: Leaf, indices: jax.Array, axis: int = 0) -> jax.Array:
    """Rows of a compressed leaf along a free axis: dense only for what is taken.

    Returns [*before, *indices.shape, *after], as jnp.take does with mode="clip".
    """
    axis = axis - w.ndim if axis >= 0 else axis
    if axis not in w.layout.free:
        raise UnsupportedInput(
            f"expected a free axis of a weight packed along {w.layout.axes}, got {axis}; "
            "take from dense(w), or pack along another axis"
        )
    if axis not in w.loose:
        if w.layout.free != (axis,):
            return jnp.take(w.dense(), indices, axis, mode="clip")
        first = w.ndim + axis
        return jnp.moveaxis(
            w.taken(indices), range(indices.ndim), range(first, first + indices.ndim)
        )
    flat = indices.reshape(-1)
    rows = w.map_free(axis, lambda part, place: jnp.take(part, flat, place, mode="clip"))
    found = rows.dense()
    place = found.ndim + axis
    return found.reshape(*found.shape[:place], *indices.shape, *found.shape[place + 1 :])
