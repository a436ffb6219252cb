"""Attention over packed keys and values in plain lax: a block of tokens is dense, and no more.

This defines the result of kv_attention, and is what runs where a chip has no kernel. Shapes that
its kernels share are here too.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from jaxcomp.kernels import packing
from jaxcomp.kernels.dispatch import align
from jaxcomp.kernels.quant_matmul_lax import Storage, levels

BLOCK = 512  # tokens that are dense at once: 8 heads of 128 are 2 MB in float32, which caches hold


class Side(NamedTuple):
    """Keys or values, as they are packed. Storage says along what: axis 1 is the channels, axis 0
    the tokens of a chunk.

    codes   [batch, heads, chunks, group, bytes], or [batch, heads, chunks, bytes, size];
            int8 for 8 bits without a table, 128 below what they mean
    scales  [batch, heads, chunks, group, groups], or [batch, heads, chunks, groups, size]; floats,
            or u16 for the bits of bfloat16
    zeros   None, or as scales, or u8: w = (level - zero) * scale
    """

    codes: jax.Array
    scales: jax.Array
    zeros: jax.Array | None = None


class Shape(NamedTuple):
    """Of a side; a tile of codes is `slices` slices of `rows` codes that share their bytes."""

    chunks: int
    group: int
    size: int
    slices: int
    rows: int
    groups: int


def shape(codes, scales, storage: Storage) -> Shape:
    """Of arrays, or of what has their shapes."""
    slices = 8 // storage.bits
    lengths = [codes.shape[3], codes.shape[4]]
    lengths[storage.axis] *= slices
    groups = scales.shape[3 + storage.axis]
    tile = storage.tile if storage.bits != 8 else lengths[storage.axis] // groups
    return Shape(codes.shape[2], *lengths, slices, tile // slices, groups)


def dense(side: Side, storage: Storage) -> Float[Array, "batch heads tokens size"]:
    """The values themselves, in float32."""
    axis = 3 + storage.axis
    codes = side.codes
    if codes.dtype == jnp.int8:
        codes = codes.astype(jnp.int32) + 128
    else:
        codes = packing.unpack(codes, storage.bits, axis=axis, tile=storage.tile)
    value = levels(codes, storage)
    groups = side.scales.shape[axis]
    grouped = value.reshape(*value.shape[:axis], groups, -1, *value.shape[axis + 1 :])
    if side.zeros is not None:
        grouped -= jnp.expand_dims(number(side.zeros), axis + 1)
    grouped *= jnp.expand_dims(number(side.scales), axis + 1)
    return grouped.reshape(*value.shape[:2], -1, value.shape[-1])


def number(x: jax.Array) -> jax.Array:
    """Scales or zeros as float32; u16 are the upper bits of one."""
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x.astype(jnp.float32)
    wide = x.astype(jnp.int32)
    if x.dtype == jnp.uint16:
        return lax.bitcast_convert_type(wide << 16, jnp.float32)
    return wide.astype(jnp.float32)


def attend(
    q: Float[Array, "batch heads rows size"],
    limits: Int32[Array, "batch rows"],
    sides: tuple[Side, Side],
    storages: tuple[Storage, Storage],
    scale: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(most, total f32[batch, heads, rows], out f32[batch, heads, rows, size])."""
    first = shape(*sides[0][:2], storages[0])
    q = q.astype(jnp.float32) * scale
    count = min(first.chunks, max(1, BLOCK // first.group))

    def visit(i, state):
        most, total, out = state
        # The last block may reach back over chunks that were read: these are masked.
        start = jnp.minimum(i * count, first.chunks - count)
        cut = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, count, 2), sides)
        keys, values = (dense(*each) for each in zip(cut, storages, strict=True))
        place = start * first.group + jnp.arange(count * first.group)
        seen = (place >= i * count * first.group) & (place < limits[..., None])  # [b, rows, t]
        scores = jnp.einsum("bhrd,bhtd->bhrt", q, keys)
        scores = jnp.where(seen[:, None], scores, -jnp.inf)
        new = jnp.maximum(most, scores.max(-1))
        base = jnp.where(new > -jnp.inf, new, 0.0)  # of a row that has seen nothing yet
        shares, shrink = jnp.exp(scores - base[..., None]), jnp.exp(most - base)
        mixed = jnp.einsum("bhrt,bhtd->bhrd", shares, values)
        return new, total * shrink + shares.sum(-1), out * shrink[..., None] + mixed

    rows = q.shape[:-1]
    state = (jnp.full(rows, -jnp.inf), jnp.zeros(rows), jnp.zeros_like(q))
    state = align(*state, q, limits, *jax.tree.leaves(sides))[:3]
    if count == first.chunks:
        return visit(0, state)
    return lax.fori_loop(0, -(-limits.max() // (count * first.group)), visit, state)


def merge(
    most: Float[Array, "*rows parts"],
    total: Float[Array, "*rows parts"],
    out: Float[Array, "*rows parts size"],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What attention over the tokens of all parts comes to, from what it came to in each."""
    new = most.max(-1)
    base = jnp.where(new > -jnp.inf, new, 0.0)
    shrink = jnp.exp(most - base[..., None])
    return new, (total * shrink).sum(-1), (out * shrink[..., None]).sum(-2)


def joined(x: jax.Array, at: Shape) -> jax.Array:
    """[..., slices, bytes] -> [..., size]: slices of bytes put in the order of channels."""
    x = x.reshape(*x.shape[:-1], -1, at.rows)
    return jnp.moveaxis(x, -3, -2).reshape(*x.shape[:-3], -1)


def sliced(x: jax.Array, at: Shape) -> jax.Array:
    """[..., size] -> [..., slices, bytes]: the channels that each slice of the bytes holds."""
    x = x.reshape(*x.shape[:-1], -1, at.slices, at.rows)
    return jnp.moveaxis(x, -2, -3).reshape(*x.shape[:-3], at.slices, -1)


def own_group(at: Shape, length: int) -> jax.Array:
    """bool[groups, bytes]: whether a byte's channels are in the group of that number."""
    return jnp.arange(at.groups)[:, None] == jnp.arange(length) // (length // at.groups)
