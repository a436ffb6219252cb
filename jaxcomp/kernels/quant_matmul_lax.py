"""x times a packed weight in plain lax: the weight is unpacked a block at a time, never whole.

This is what quant_matmul and quant_matmul_int8 run on a CPU, what they fall back to where a chip
has no kernel for the arguments, and what defines their results.

A packed weight is seen as [tiles, chunks, rows, n] (n first for axis 1). Codes that share a byte
are a fraction of a tile apart (packing.py), so a tile of T codes is S slices of R codes, S R = T,
and the bytes of its C chunks of R rows hold the same row of every slice. With x cut into the same
slices, x @ w = sum over slices of x[slice] @ w[slice]: codes are never put back in order.

Blocks start where they end inside the array; what a block shares with the one before is masked.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int8, Shaped

from jaxcomp.kernels import dispatch
from jaxcomp.kernels.packing import TRITS, TRITS_PER_BYTE, planes, tile_bytes

# Weights unpacked at a time, per slice: 256 KiB of floats, which stay in a second cache of 2 MiB.
# One row of 4096 x 4096 int8 weights took 2.9 ms with 2**16 of them, 4.1 ms with 2**17.
BLOCK = 1 << 16
# With many rows of x a product is worth more than the cache: fewer, larger ones.
MANY_ROWS, MANY_BLOCK = 32, 1 << 20
# Long runs of memory are fast: for axis 0 a block has this many columns and as many rows as fit,
# for axis 1 all of k and as many columns as fit, but no fewer than a product is worth.
COLUMNS, LEAST_COLUMNS = 4096, 16
# Integers take less room. With a scale per group each group is a product of its own, for axis 1
# over this many columns.
INT8_BLOCK, INT8_COLUMNS = 1 << 24, 4096
INT8_BLOCK_0 = 1 << 20
# An int8 product of fewer rows leaves the fast path of XLA on a CPU (16.8 ms for 0.7).
INT8_ROWS = 8
# Of the dtype of the other starts of a slice: a literal is an int64 in programs of 64 bits.
ZERO = np.int32(0)


class Storage(NamedTuple):
    """The static half of a packed weight: where its codes lie, and which level a code means.

    level = (table[code] if there is a table, else code) - offset.
    """

    bits: int
    tile: int
    axis: int
    offset: float | int
    table: tuple[float, ...] | None


class Layout(NamedTuple):
    """The sizes of a packed weight; per_group is the number of tiles that share a scale."""

    tiles: int
    chunks: int
    slices: int
    rows: int
    columns: int
    per_group: int


def layout(codes, scales, storage: Storage) -> Layout:
    """Of codes and scales as they lie along storage.axis."""
    bits, tile, axis = storage.bits, storage.tile, storage.axis
    n, groups, length = codes.shape[1 - axis], scales.shape[axis], codes.shape[axis]
    if bits == 8:  # not packed: any tile will do
        return Layout(groups, 1, 1, length // groups, n, 1)
    tiles = length // tile_bytes(tile, bits)
    if bits == TRITS:
        return Layout(tiles, 1, TRITS_PER_BYTE, tile_bytes(tile, bits), n, tiles // groups)
    least = min(planes(bits))
    return Layout(tiles, bits // least, 8 // least, tile * least // 8, n, tiles // groups)


def slices(x: Shaped[Array, "m k"], at: Layout, storage: Storage) -> Shaped[Array, "s m t r"]:
    """x cut into the slices of the packed axis, zeros where the axis is padded."""
    tile = at.rows if storage.bits == 8 else storage.tile
    x = jnp.pad(x, ((0, 0), (0, at.tiles * tile - x.shape[1])))
    x = x.reshape(-1, at.tiles, tile)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, at.slices * at.rows - tile)))
    return x.reshape(-1, at.tiles, at.slices, at.rows).transpose(2, 0, 1, 3)


def _join(xs: Shaped[Array, "s m t r"], k: int, at: Layout, storage: Storage) -> jax.Array:
    """The inverse of slices: [m, k]."""
    x = xs.transpose(1, 2, 0, 3).reshape(-1, at.tiles, at.slices * at.rows)
    tile = at.rows if storage.bits == 8 else storage.tile
    return x[:, :, :tile].reshape(x.shape[0], -1)[:, :k]


def code(chunk: Callable[[int], jax.Array], which: int, bits: int) -> jax.Array:
    """The codes of slice `which`, from the bytes of the chunks."""
    if bits == 8:
        return chunk(0)
    if bits == TRITS:
        return chunk(0) // 3**which % 3
    done, low, first = None, 0, 0
    least = min(planes(bits))
    for width in planes(bits):
        each = width // least  # chunks per part of this plane
        part = chunk(first + which % each) >> (which // each * width) & ((1 << width) - 1)
        done = part if done is None else done | part << low
        low, first = low + width, first + each
    return done


def levels(codes: jax.Array, storage: Storage, dtype=jnp.float32) -> jax.Array:
    """The numbers that codes stand for, before their scale."""
    if storage.table is None:
        if storage.bits != 8:
            codes = codes.astype(jnp.int8)
        return codes.astype(dtype) - jnp.asarray(storage.offset, dtype)
    table = [jnp.asarray(value - storage.offset, dtype) for value in storage.table]
    if len(table) > 16:
        return jnp.stack(table)[codes.astype(jnp.uint8)]
    bit = 1
    while len(table) > 1:  # a tree of choices, one bit of the code after another
        odd = codes & bit != 0
        pairs = zip(table[::2], table[1::2] + table[-1:], strict=False)
        table = [jnp.where(odd, high, low) for low, high in pairs]
        bit *= 2
    return jnp.broadcast_to(table[0], codes.shape)


class _Blocks(NamedTuple):
    """What one turn of the loop unpacks: tiles, rows of each and columns."""

    tiles: int
    rows: int
    columns: int


class _Spot(NamedTuple):
    """Where a block starts, and what of it no earlier block had (None: all)."""

    tile: jax.Array
    row: jax.Array
    column: jax.Array
    new: jax.Array | None  # [tiles, rows]
    new_columns: jax.Array | None  # [columns]


def _blocks(at: Layout, axis: int, m: int, one_group: bool = False) -> _Blocks:
    """The block for m rows of x; with one_group, never of more than one scale."""
    whole = at.per_group == at.tiles
    block = BLOCK if m < MANY_ROWS else MANY_BLOCK
    if axis == 0:
        columns = COLUMNS
        block = max(block, INT8_BLOCK_0) if one_group else block
    elif one_group:
        columns = INT8_COLUMNS if not whole else INT8_BLOCK // (at.tiles * at.rows)
        block = max(block, INT8_BLOCK)
    else:
        columns = block // (at.tiles * at.rows)
    columns = min(at.columns, max(columns, LEAST_COLUMNS))
    length = block // columns
    if length < at.rows:
        return _Blocks(1, length, columns)
    tiles = min(at.tiles, length // at.rows)
    if not whole and tiles > at.per_group and not one_group:
        tiles -= tiles % at.per_group
    elif not whole:
        tiles = max(x for x in range(1, min(tiles, at.per_group) + 1) if at.per_group % x == 0)
    return _Blocks(tiles, at.rows, columns)


def _loop(at: Layout, size: _Blocks, body, carry):
    """carry = body(carry, spot) for every block."""
    by_tile, by_row = -(-at.tiles // size.tiles), -(-at.rows // size.rows)
    by_column = -(-at.columns // size.columns)
    exact = at.tiles % size.tiles == 0 and at.rows % size.rows == 0
    exact_columns = at.columns % size.columns == 0

    def divide(i, by):  # // and % mind signs
        return lax.div(i, jnp.int32(by)), lax.rem(i, jnp.int32(by))

    def turn(i, carry):
        column_index, inner = divide(i.astype(jnp.int32), by_tile * by_row)
        tile_index, row_index = divide(inner, by_row)
        wanted = (tile_index * size.tiles, row_index * size.rows)
        wanted_column = column_index * size.columns
        tile = jnp.minimum(wanted[0], at.tiles - size.tiles)
        row = jnp.minimum(wanted[1], at.rows - size.rows)
        column = jnp.minimum(wanted_column, at.columns - size.columns)
        new = new_columns = None
        if not exact:
            new = (jnp.arange(size.tiles) + tile >= wanted[0])[:, None]
            new = new & (jnp.arange(size.rows) + row >= wanted[1])
        if not exact_columns:
            new_columns = jnp.arange(size.columns) + column >= wanted_column
        return body(carry, _Spot(tile, row, column, new, new_columns))

    turns = by_tile * by_row * by_column
    if turns == 1:
        return turn(jnp.int32(0), carry)
    return lax.fori_loop(0, turns, turn, carry)


def _place(along_k: tuple, along_n, axis: int) -> tuple:
    return (*along_k, along_n) if axis == 0 else (along_n, *along_k)


def _reader(codes: jax.Array, at: Layout, size: _Blocks, storage: Storage):
    """read(spot) -> the codes of each slice of a block: [tiles, rows, n], or n first for axis 1."""
    # An axis of length 1 is left out: XLA gives it a layout of its own, and copies all codes.
    lengths = (at.tiles, at.chunks, at.rows)
    kept = [i for i, length in enumerate(lengths) if length > 1]

    def place(along_k, along_n):
        return _place(tuple(along_k[i] for i in kept), along_n, storage.axis)

    codes = codes.reshape(place(lengths, at.columns))
    shape = place((size.tiles, at.chunks, size.rows), size.columns)
    full = _place((size.tiles, at.chunks, size.rows), size.columns, storage.axis)

    def read(spot):
        block = lax.dynamic_slice(codes, place((spot.tile, ZERO, spot.row), spot.column), shape)
        block = block.reshape(full)

        def chunk(i):
            return lax.index_in_dim(block, i, axis=1 + storage.axis, keepdims=False)

        return [code(chunk, j, storage.bits) for j in range(at.slices)]

    return read


def _scale(scales: jax.Array, spot: _Spot, at: Layout, size: _Blocks, axis: int) -> jax.Array:
    """The scales of a block in float32: [groups, n], or [n, groups] for axis 1."""
    first, count = lax.div(spot.tile, jnp.int32(at.per_group)), max(1, size.tiles // at.per_group)
    start, shape = (first, spot.column), (count, size.columns)
    start, shape = (start, shape) if axis == 0 else (start[::-1], shape[::-1])
    return lax.dynamic_slice(scales, start, shape).astype(jnp.float32)


def _scaled(weight: jax.Array, scale: jax.Array, axis: int) -> jax.Array:
    """weight [tiles, rows, n] (n first for axis 1) times scales, as [tiles * rows, n]."""
    if axis == 0:
        out = weight.reshape(scale.shape[0], -1, weight.shape[-1]) * scale[:, None]
        return out.reshape(-1, weight.shape[-1])
    out = weight.reshape(weight.shape[0], scale.shape[1], -1) * scale[:, :, None]
    return out.reshape(weight.shape[0], -1)


def _part(xs: jax.Array, spot: _Spot, size: _Blocks) -> jax.Array:
    """The slices of x that meet a block: [s, m, tiles * rows]."""
    shape = (*xs.shape[:2], size.tiles, size.rows)
    part = lax.dynamic_slice(xs, (ZERO, ZERO, spot.tile, spot.row), shape)
    if spot.new is not None:
        part = jnp.where(spot.new, part, 0)
    return part.reshape(*xs.shape[:2], -1)


def _columns(g: jax.Array, spot: _Spot, size: _Blocks) -> jax.Array:
    """The columns of g [m, n] that meet a block."""
    part = lax.dynamic_slice(g, (ZERO, spot.column), (g.shape[0], size.columns))
    return part if spot.new_columns is None else jnp.where(spot.new_columns, part, 0)


def _add(y: jax.Array, part: jax.Array, start: tuple) -> jax.Array:
    old = lax.dynamic_slice(y, start, part.shape)
    return lax.dynamic_update_slice(y, old + part, start)


def _zeros(shape: tuple[int, ...], *like: jax.Array, dtype=jnp.float32) -> jax.Array:
    """Zeros that vary over the mesh axes that the others vary over."""
    return dispatch.align(jnp.zeros(shape, dtype), *like)[0]


def matmul(
    x: Float[Array, "m k"], codes: jax.Array, scales: jax.Array, *, storage: Storage
) -> Float[Array, "m n"]:
    """x @ w in float32, with w unpacked and scaled a block at a time."""
    axis, at = storage.axis, layout(codes, scales, storage)
    size = _blocks(at, axis, x.shape[0])
    read = _reader(codes, at, size, storage)
    xs = slices(x.astype(jnp.float32), at, storage)
    by_column = at.per_group == at.tiles  # one scale for all of k: applied to the result
    by_block = size.tiles <= at.per_group  # one scale for all of a block's k: to its product

    def body(y, spot):
        scale = None if by_column else _scale(scales, spot, at, size, axis)
        total = 0
        for part, one in zip(_part(xs, spot, size), read(spot), strict=True):
            weight = levels(one, storage)
            if by_block:
                weight = weight.reshape((-1, size.columns) if axis == 0 else (size.columns, -1))
            else:
                weight = _scaled(weight, scale, axis)
            total += lax.dot_general(part, weight, (((1,), (axis,)), ((), ())))
        if by_block and not by_column:
            total *= scale.reshape(1, -1)
        if spot.new_columns is not None:
            total = jnp.where(spot.new_columns, total, 0)
        return _add(y, total, (ZERO, spot.column))

    y = _loop(at, size, body, _zeros((x.shape[0], at.columns), x, codes, scales))
    return y * scales.astype(jnp.float32).reshape(1, -1) if by_column else y


def input_gradient(
    g: Float[Array, "m n"], codes: jax.Array, scales: jax.Array, *, k: int, storage: Storage
) -> Float[Array, "m k"]:
    """g @ w.T in float32, by the same blocks."""
    axis, at = storage.axis, layout(codes, scales, storage)
    size = _blocks(at, axis, g.shape[0])
    read = _reader(codes, at, size, storage)
    g = g.astype(jnp.float32)

    def body(xs, spot):
        part, scale = _columns(g, spot, size), _scale(scales, spot, at, size, axis)
        parts = []
        for one in read(spot):
            weight = _scaled(levels(one, storage), scale, axis)
            parts.append(lax.dot_general(part, weight, (((1,), (1 - axis,)), ((), ()))))
        parts = jnp.stack(parts).reshape(at.slices, -1, size.tiles, size.rows)
        if spot.new is not None:
            parts = jnp.where(spot.new, parts, 0)
        return _add(xs, parts, (ZERO, ZERO, spot.tile, spot.row))

    shape = (at.slices, g.shape[0], at.tiles, at.rows)
    return _join(_loop(at, size, body, _zeros(shape, g, codes, scales)), k, at, storage)


def scale_gradient(
    g: Float[Array, "m n"],
    x: Float[Array, "m k"],
    codes: jax.Array,
    scales: jax.Array,
    *,
    storage: Storage,
) -> Float[Array, "..."]:
    """The sum of (x.T @ g) * level over the codes of each scale, in float32, like scales."""
    axis, at = storage.axis, layout(codes, scales, storage)
    size = _blocks(at, axis, g.shape[0])
    read = _reader(codes, at, size, storage)
    g, xs = g.astype(jnp.float32), slices(x.astype(jnp.float32), at, storage)
    count = max(1, size.tiles // at.per_group)

    def body(total, spot):
        columns, sums = _columns(g, spot, size), 0
        for part, one in zip(_part(xs, spot, size), read(spot), strict=True):
            pair = (part, columns) if axis == 0 else (columns, part)
            outer = lax.dot_general(*pair, (((0,), (0,)), ((), ())))
            outer = outer * levels(one, storage).reshape(outer.shape)
            if axis == 0:
                sums += outer.reshape(count, -1, size.columns).sum(1)
            else:
                sums += outer.reshape(size.columns, count, -1).sum(2)
        start = (spot.tile // at.per_group, spot.column)
        return _add(total, sums, start if axis == 0 else start[::-1])

    return _loop(at, size, body, _zeros(scales.shape, g, x, codes, scales))


def int8_matmul(
    x: Int8[Array, "m k"], codes: jax.Array, scales: jax.Array, *, storage: Storage
) -> Float[Array, "m n"]:
    """x @ w in float32 for integers x: int8 products summed in int32 within each group."""
    axis, at = storage.axis, layout(codes, scales, storage)
    m = x.shape[0]
    x = jnp.pad(x, ((0, max(0, INT8_ROWS - m)), (0, 0)))
    size = _blocks(at, axis, m, one_group=True)
    read = _reader(codes, at, size, storage)
    xs = slices(x, at, storage)
    by_column = at.per_group == at.tiles

    def body(y, spot):
        total = 0
        for part, one in zip(_part(xs, spot, size), read(spot), strict=True):
            weight = one if storage.bits == 8 else levels(one, storage, jnp.int8)
            # The weight goes first where its rows are contiguous: five times as fast.
            if axis == 0:
                pair, over = (part, weight.reshape(-1, size.columns)), (1, 0)
            else:
                pair, over = (weight.reshape(size.columns, -1), part), (1, 1)
            numbers = (((over[0],), (over[1],)), ((), ()))
            total += lax.dot_general(*pair, numbers, preferred_element_type=jnp.int32)
        if not by_column:
            total = total * _scale(scales, spot, at, size, axis)
        if spot.new_columns is not None:
            new = spot.new_columns
            total = jnp.where(new if axis == 0 else new[:, None], total, 0)
        return _add(y, total, (ZERO, spot.column) if axis == 0 else (spot.column, ZERO))

    shape = (x.shape[0], at.columns) if axis == 0 else (at.columns, x.shape[0])
    dtype = jnp.int32 if by_column else jnp.float32
    y = _loop(at, size, body, _zeros(shape, x, codes, scales, dtype=dtype))
    y = (y if axis == 0 else y.T)[:m].astype(jnp.float32)
    return y * scales.astype(jnp.float32).reshape(1, -1) if by_column else y
