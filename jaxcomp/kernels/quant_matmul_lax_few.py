"""One row of integers times a weight [out, in] with a scale per group, in plain lax.

A product for each group, as in quant_matmul_lax, is thin: one row took 7 times as long as float32
weights where 32 of them share a scale. Here the row stands once for each of several groups, with
zeros in place of the others,

    [x0, 0, 0, ...]
    [0, x1, 0, ...]
    [0, 0, x2, ...]

so that one product makes the sums of all of them, from whole rows of the weight.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int8

from jaxcomp.kernels import dispatch
from jaxcomp.kernels.quant_matmul_lax import (
    INT8_ROWS,
    Layout,
    Storage,
    code,
    layout,
    levels,
    slices,
)

WIDE = 32  # groups of one product: 16 to 64 are alike, 128 took 1.3 times as long
MOST_GROUPS = 512  # each is written out in the program
# Codes unpacked at a time: 1 MiB stays in a second cache of 2 MiB; 4 times as much took 1.3 times
# as long.
BLOCK = 1 << 20


def supports(rows: int, codes: jax.Array, scales: jax.Array, storage: Storage) -> bool:
    """Whether `int8_matmul` takes the arguments: one row, a weight [n, bytes], some groups."""
    return rows == 1 and storage.axis == 1 and 1 < scales.shape[1] <= MOST_GROUPS


def int8_matmul(
    x: Int8[Array, "1 k"], codes: jax.Array, scales: jax.Array, *, storage: Storage
) -> Float[Array, "1 n"]:
    """x @ w in float32: int8 products summed in int32 within each group."""
    at = layout(codes, scales, storage)
    groups = at.tiles // at.per_group
    wide = next(n for n in range(min(groups, WIDE), groups + 1) if groups % n == 0)
    lone = _apart(slices(x, at, storage), groups, wide)
    run = lone.shape[-1]
    columns = max(1, min(at.columns, BLOCK // (at.tiles * at.slices * at.rows)))

    def body(i, y):
        start = jnp.minimum(i.astype(jnp.int32) * columns, at.columns - columns)
        block = lax.dynamic_slice_in_dim(codes, start, columns, 0)
        scale = lax.dynamic_slice_in_dim(scales, start, columns, 0).astype(jnp.float32)
        weights, total = _unpacked(block, at, storage), 0
        for first in range(0, groups, wide):
            each, sums = first // wide, 0
            for rows, weight in zip(lone, weights, strict=True):
                part = weight[:, each * run : (each + 1) * run]
                numbers = (((1,), (1,)), ((), ()))
                sums += lax.dot_general(part, rows[each], numbers, preferred_element_type=jnp.int32)
            for group in range(wide):
                total += sums[:, group] * scale[:, first + group]
        return lax.dynamic_update_slice_in_dim(y, total, start, 0)

    y = dispatch.align(jnp.zeros(at.columns, jnp.float32), x, codes, scales)[0]
    return lax.fori_loop(0, -(-at.columns // columns), body, y)[None]


def _apart(xs: jax.Array, groups: int, wide: int) -> Int8[Array, "s products rows run"]:
    """[s, 1, tiles, rows] -> for each product a row per group, alone in its place."""
    xs = xs.reshape(len(xs), groups // wide, 1, wide, -1)
    alone = xs * jnp.eye(wide, dtype=jnp.int8)[:, :, None]  # [s, products, wide, wide, of a group]
    alone = alone.reshape(*alone.shape[:3], -1)
    return jnp.pad(alone, ((0, 0), (0, 0), (0, max(0, INT8_ROWS - wide)), (0, 0)))


def _unpacked(block: jax.Array, at: Layout, storage: Storage) -> list[jax.Array]:
    """The int8 levels of each slice of some rows of codes: [columns, tiles * rows]."""
    columns = block.shape[0]
    if storage.bits == 8:
        return [block]
    block = block.reshape(columns, at.tiles, at.chunks, at.rows)
    each = [code(lambda i: block[:, :, i], j, storage.bits) for j in range(at.slices)]
    return [levels(one, storage, jnp.int8).reshape(columns, -1) for one in each]
