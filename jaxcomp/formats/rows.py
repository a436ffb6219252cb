"""A leaf as a matrix [out, in] and back, and its product with dense blocks of a few rows.

A leaf without a kernel needs no more than dense(): the product makes some rows of it at a time.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxcomp.formats.layout import Layout, from_matrix, merged_axis, unmerge
from jaxcomp.formats.leaf import Leaf, is_shared, map_leading

# Values of the dense weight at a time: 4 MiB of floats, and no fewer rows than a product is worth.
BLOCK, LEAST_ROWS = 1 << 20, 16


def place(leaf: Leaf, where: Layout) -> Leaf:
    """A leaf that is a matrix [out, in] (every part [out or 1, p]), to where `where` says."""
    merged = merged_axis(where.packed)
    return _moved(
        leaf, where.packed, lambda size: ((merged, size),), lambda part: from_matrix(part, where)
    )


def as_rows(leaf: Leaf) -> Leaf:
    """The leaf as a matrix [out, in]: every part [out, p], or [1, p] where outputs share it."""
    axis, free = merged_axis(leaf.packed), [leaf.shape[a] for a in leaf.layout.free]

    def flat(part):
        last = jnp.moveaxis(part, axis, -1)
        if not is_shared(part, leaf.packed):
            last = jnp.broadcast_to(last, (*free, last.shape[-1]))
        return last.reshape(-1, last.shape[-1])

    size = math.prod(size for _, size in leaf.packed)
    return _moved(leaf, ((-1, size),), lambda size: ((-1, size),), flat)


def _moved(leaf: Leaf, packed: Any, inner: Callable[[int], Any], each: Callable[..., Any]) -> Any:
    """The leaf with each(part), packed as told; inner(size) says so for leaves that are parts."""
    new = {}
    for field in dataclasses.fields(leaf):
        value = getattr(leaf, field.name)
        if field.name == "packed":
            new["packed"] = packed
        elif isinstance(value, Leaf):
            size = math.prod(size for _, size in value.packed)
            new[field.name] = _moved(value, inner(size), inner, each)
        elif not field.metadata.get("static") and value is not None:
            new[field.name] = each(value)
    return dataclasses.replace(leaf, **new)


def from_last(w: Float[Array, "*free in"], leaf: Leaf) -> jax.Array:
    """The dense weight, in its shape and dtype, of what has the merged axis last and padded."""
    size = math.prod(size for _, size in leaf.packed)
    w = jnp.moveaxis(w[..., :size], -1, merged_axis(leaf.packed))
    return unmerge(w, leaf.packed).astype(leaf.dtype)


def matmul(x: Float[Array, "m in"], leaf: Leaf) -> jax.Array:
    """x times the weight, [m, *free], in x's dtype; dense for some rows of [out, in] at a time."""
    shared = [is_shared(part, leaf.packed) for part in leaf.parts]
    free = [leaf.shape[a] for a in leaf.layout.free]
    mixed = [p.size // p.shape[merged_axis(leaf.packed)] < math.prod(free) for p in leaf.parts]
    if any(m and not s for m, s in zip(mixed, shared, strict=True)):
        # One matrix after another, of stacked ones that share parts among their own rows.
        return map_leading(lambda w: matmul(x, w), leaf, out_axis=1)
    rows = dataclasses.replace(as_rows(leaf), dtype=jnp.dtype(jnp.float32))
    out = math.prod(free)
    block = min(out, max(LEAST_ROWS, BLOCK // x.shape[1]))
    count = -(-out // block)
    starts = jnp.minimum(jnp.arange(count) * block, out - block)
    flat = x.astype(jnp.float32)

    @jax.checkpoint  # a gradient makes the blocks again: kept, they would be the dense weight
    def product(rows, flat, start):
        part = jax.tree.map(
            lambda p: p if p.shape[0] == 1 != out else lax.dynamic_slice_in_dim(p, start, block),
            rows,
        )
        return lax.dot_general(flat, part.dense(), (((1,), (1,)), ((), ())))

    _, found = lax.scan(lambda _, start: (None, product(rows, flat, start)), None, starts)
    # The last block ends with the matrix; what it shares with the one before is left out.
    rest = out - (count - 1) * block
    before = jnp.moveaxis(found[:-1], 0, 1).reshape(x.shape[0], -1)
    y = jnp.concatenate([before, found[-1][:, block - rest :]], 1)
    return y.astype(x.dtype).reshape(x.shape[0], *free)
