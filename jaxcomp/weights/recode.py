"""recoded: a leaf with some of its codes changed, so that it comes nearer to another weight.

    code <- the code of least sum over its values of (target - dense(code))^2,   grid or table kept

for the share of the codes whose dense values are furthest off, of those that would change. Runs of
a sum of several books are searched one book after another, from the codes that are there.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Integer

from jaxcomp.formats import format as grids
from jaxcomp.formats.codebook import Codebook, whole_vectors
from jaxcomp.formats.k_means import nearest
from jaxcomp.formats.layout import from_matrix, merged_axis, to_matrix
from jaxcomp.formats.leaf import Leaf
from jaxcomp.formats.qtensor import QTensor, read, unpacked
from jaxcomp.kernels import packing

SWEEPS = 2  # over several books: more change next to nothing


def recoded(leaf: Leaf, target: jax.Array, share: float) -> Leaf:
    """A Codebook or QTensor with at most the share of its codes changed; target has its shape."""
    return (_in_table if isinstance(leaf, Codebook) else _on_grid)(leaf, target, share)


def _furthest(
    changed: Bool[Array, "*codes"], off: Float[Array, "*codes"], share: float, count: int
) -> Bool[Array, "*codes"]:
    """Of what changed, the share of `count` that is furthest off."""
    most = min(max(1, round(share * count)), changed.size)
    _, chosen = lax.top_k(jnp.where(changed, off, -1.0).reshape(-1), most)
    mask = jnp.zeros(changed.size, bool).at[chosen].set(True)
    return mask.reshape(changed.shape) & changed


def _on_grid(leaf: QTensor, target: jax.Array, share: float) -> QTensor:
    axis, format = merged_axis(leaf.packed), leaf.format
    old = unpacked(leaf.codes, format, axis)
    size = leaf.layout.size_in
    target = _merged(target, leaf)
    target = jnp.moveaxis(_padded(jnp.moveaxis(target, axis, -1), old.shape[axis]), -1, axis)
    place = old.ndim + axis
    scales, zeros = read(leaf.scales, leaf.zeros, format)
    groups = 1 if format.group in (None, -1) else scales.shape[axis]
    shape = (*old.shape[:place], groups, -1, *old.shape[place + 1 :])
    scales = jnp.expand_dims(scales, place + 1)
    zeros = 0.0 if zeros is None else jnp.expand_dims(zeros, place + 1)
    target, now = target.reshape(shape), grids.value(old.reshape(shape), format)
    new = grids.nearest(target / jnp.where(scales == 0, 1.0, scales) + zeros, format)
    off = jnp.abs(target - (now - zeros) * scales).reshape(old.shape)
    new = new.reshape(old.shape)
    inside = lax.broadcasted_iota(jnp.int32, old.shape, place) < size
    codes = jnp.where(_furthest((new != old) & inside, off, share, leaf.size), new, old)
    if leaf.codes.dtype == jnp.int8:
        kept = (codes - 128).astype(jnp.int8)
    else:
        kept = packing.pack(codes.astype(jnp.uint8), format.bits, axis=axis, tile=format.tile)
    return dataclasses.replace(leaf, codes=kept)


def _in_table(leaf: Codebook, target: jax.Array, share: float) -> Codebook:
    axis, vector, books, segments = merged_axis(leaf.packed), leaf.vector, leaf.books, leaf.segments
    kept, packed = leaf.codes, leaf.codes.dtype == jnp.uint8
    if packed:
        kept = packing.unpack(kept, leaf.bits, axis=axis, tile=leaf.tile)
    kept = jnp.moveaxis(kept.astype(jnp.int32), axis, -1)  # [*free, runs * books, filled up]
    free, size = kept.shape[:-1], leaf.layout.size_in
    table = jnp.moveaxis(leaf.table.astype(jnp.float32), axis, -1)
    tables = _tables(table.shape[:-1], free)
    table = jnp.broadcast_to(table, (*free[: len(tables)], *table.shape[len(tables) :]))
    table = table.reshape(math.prod(tables), segments, books, -1, vector)
    groups = 1 if leaf.scales is None else leaf.scales.shape[axis]
    runs = whole_vectors(size, vector, segments, groups)

    def cut(x, last):  # [*free, in] or codes -> [tables, segments, runs of it, last]
        x = x.reshape(len(table), -1, segments, runs // segments, last)
        return jnp.moveaxis(x, 2, 1).reshape(len(table), segments, -1, last)

    scales = jnp.ones((*free, 1)) if leaf.scales is None else leaf.scales.astype(jnp.float32)
    if leaf.scales is not None:
        scales = jnp.moveaxis(scales, axis, -1)
        scales = jnp.broadcast_to(scales, (*free, scales.shape[-1]))
    wide = jnp.repeat(scales, runs * vector // scales.shape[-1], -1)
    target = _padded(jnp.moveaxis(_merged(target, leaf), axis, -1), runs * vector)
    inside = jnp.where(jnp.arange(runs * vector) < size, wide**2, 0.0)
    codes = kept[..., : runs * books]
    arrays = (
        cut(target / jnp.where(wide == 0, 1.0, wide), vector),
        cut(inside, vector),
        cut(codes, books),
    )

    def one(each):
        return lax.map(lambda inner: _nearer(*inner), each)

    new, off = lax.map(one, (*arrays, table))
    old = arrays[2]
    changed = _furthest((new != old).any(-1), off, share, runs * math.prod(free))
    new = jnp.where(changed[..., None], new, old)
    new = new.reshape(len(table), segments, -1, runs // segments, books)
    new = jnp.moveaxis(new, 1, 2).reshape(codes.shape)
    kept = jnp.moveaxis(kept.at[..., : runs * books].set(new).astype(leaf.codes.dtype), -1, axis)
    kept = packing.pack(kept, leaf.bits, axis=axis, tile=leaf.tile) if packed else kept
    return dataclasses.replace(leaf, codes=kept)


def _nearer(
    x: Float[Array, "runs vector"],
    weights: Float[Array, "runs vector"],
    codes: Integer[Array, "runs books"],
    table: Float[Array, "books levels vector"],
) -> tuple[Integer[Array, "runs books"], Float[Array, " runs"]]:
    """(codes nearer to x, how far x is from those that were there)."""
    books = len(table)

    def left(codes):
        return x - sum(table[m][codes[:, m]] for m in range(books))

    def one(i, codes):
        m = i % books
        wanted = left(codes) + table[m][codes[:, m]]
        return codes.at[:, m].set(nearest(wanted, weights, table[m]).astype(codes.dtype))

    off = (weights * left(codes) ** 2).sum(1)
    return lax.fori_loop(0, 1 if books == 1 else SWEEPS * books, one, codes), off


def _tables(parts: tuple[int, ...], free: tuple[int, ...]) -> tuple[int, ...]:
    """The leading free axes of which each has a table of its own; all others share theirs."""
    last = max((i + 1 for i, size in enumerate(parts) if size != 1), default=0)
    return free[:last]


def _merged(w: jax.Array, leaf: Leaf) -> jax.Array:
    """[*free, in]: the packed axes of a weight merged, where the last of them stood."""
    return from_matrix(to_matrix(w, leaf.layout.axes)[0], leaf.layout)


def _padded(x: jax.Array, size: int) -> jax.Array:
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, size - x.shape[-1]),))
