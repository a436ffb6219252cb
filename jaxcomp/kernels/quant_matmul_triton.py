"""The products of quant_matmul and quant_matmul_int8 as a Triton kernel.

One program makes a tile of rows by columns and walks its part of k: it loads some rows of bytes,
and the codes of each slice in them (quant_matmul_lax) meet their own slice of x, so that nothing is
interleaved. A weight exists in registers only, as a level in x's dtype (a table is rounded to it);
the scale of a group goes to its partial sums. Few rows leave most of the device idle, so k is split
over programs too, whose partial sums are added afterwards.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.kernels import dispatch
from jaxcomp.kernels.quant_matmul_lax import Layout, Storage, code, layout, levels

# Two programs for each of an H100's or H200's 132 multiprocessors, so that loads overlap.
PROGRAMS = 264
MOST_SPLITS = 16  # beyond this the partial sums cost what the codes do
# Of one product on tensor cores, for floats and for integers.
LEAST_DEPTH, MOST_DEPTH = {False: 16, True: 32}, {False: 64, True: 128}
# The bits of 2**7, 2**10 and 2**23, below which a mantissa counts in ones: or-ing a small integer
# in and subtracting is a conversion at full speed (int to float runs at a quarter of it).
ONES = {"bfloat16": (0x4300, 7), "float16": (0x6400, 10), "float32": (0x4B000000, 23)}


def depth(at: Layout, integers: bool) -> int:
    """Rows of bytes that are taken at a time: a power of two that divides a tile's."""
    return math.gcd(at.rows, MOST_DEPTH[integers])


def supports(x_dtype, at: Layout, storage: Storage) -> bool:
    """Whether the kernel takes the arguments: 8, 4 or 2 bits, a table of at most 16 levels."""
    integers = x_dtype == jnp.int8
    fits = storage.bits in (2, 4, 8) and x_dtype in (*map(jnp.dtype, ONES), jnp.int8)
    small = storage.table is None or (storage.bits < 8 and len(storage.table) <= 16)
    return fits and small and depth(at, integers) >= LEAST_DEPTH[integers]


def splits(programs: int, steps: int) -> int:
    """Into how many parts k is cut: the fewest, of those that divide the steps, that fill a GPU."""
    possible = [x for x in range(1, MOST_SPLITS + 1) if steps % x == 0]
    return next((x for x in possible if x * programs >= PROGRAMS), possible[-1])


def _levels(codes: jax.Array, storage: Storage, dtype) -> jax.Array:
    """As quant_matmul_lax.levels, in the dtype of a product."""
    if storage.table is not None or dtype == jnp.int8:
        plain = storage.bits == 8 and storage.table is None
        return codes if plain else levels(codes, storage, dtype)
    offset, bits = storage.offset, storage.bits
    if bits == 8:
        codes, offset = lax.bitcast_convert_type(codes, jnp.uint8) ^ jnp.uint8(128), offset + 128
    ones, width = ONES[dtype.name]
    fits = bits <= width and abs(offset) <= 1 << width and float(offset).is_integer()
    working = dtype if fits else jnp.dtype(jnp.float32)
    ones, width = ONES[working.name]
    integer = jnp.uint16 if working.itemsize == 2 else jnp.uint32
    joined = codes.astype(integer) | jnp.asarray(ones, integer)
    value = lax.bitcast_convert_type(joined, working) - jnp.asarray(1 << width, working)
    return (value - jnp.asarray(offset, working)).astype(dtype)


def call(x, codes, scales, x_scale=None, *, storage: Storage, out: str, interpret: bool = False):
    """x [m, k] @ w in dtype `out`, times x_scale [m, 1] where x is integers. Returns a tuple."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    axis, at = storage.axis, layout(codes, scales, storage)
    integers = x.dtype == jnp.int8
    (m, k), n, rows = x.shape, at.columns, depth(at, integers)
    tile = at.rows if storage.bits == 8 else storage.tile
    by_column = at.per_group == at.tiles
    block_m = next((size for size in (16, 32, 64) if m <= size), 128)
    block_n = 64 if m <= 64 else 128
    grid = pl.cdiv(n, block_n), pl.cdiv(m, block_m)
    per_tile = at.rows // rows
    steps = at.tiles * per_tile
    parts = splits(grid[0] * grid[1], steps)
    total_type = jnp.int32 if integers else jnp.float32
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None

    def kernel(x_ref, codes_ref, scales_ref, *rest):
        *rest, y_ref = rest
        column, row, part = pl.program_id(0) * block_n, pl.program_id(1) * block_m, pl.program_id(2)
        in_m = row + lax.iota(jnp.int32, block_m) < m
        in_n = column + lax.iota(jnp.int32, block_n) < n
        inner = lax.iota(jnp.int32, rows)

        def scale(group):
            at_n, at_k = pl.ds(column, block_n), group
            at_both = scales_ref.at[at_k, at_n] if axis == 0 else scales_ref.at[at_n, at_k]
            return triton.load(at_both, mask=in_n, other=0).astype(jnp.float32)

        def product(step, total):
            """total + the part of x @ level that a step's bytes hold."""
            tile_index, first = step // per_tile, step % per_tile * rows
            start = tile_index * at.rows + first
            along_k, along_n = pl.ds(start, rows), pl.ds(column, block_n)
            if axis == 0:
                where, mask = (along_k, along_n), jnp.broadcast_to(in_n[None], (rows, block_n))
            else:
                where, mask = (along_n, along_k), jnp.broadcast_to(in_n[:, None], (block_n, rows))
            block = triton.load(codes_ref.at[where], mask=mask, other=0)
            for j in range(at.slices):
                begin = tile_index * tile + j * at.rows + first
                inside = in_m[:, None] & (begin + inner < k)[None]
                x_at = x_ref.at[pl.ds(row, block_m), pl.ds(begin, rows)]
                left = triton.load(x_at, mask=inside, other=0)
                right = _levels(code(lambda _: block, j, storage.bits), storage, x.dtype)
                total += lax.dot_general(
                    left,
                    right,
                    (((1,), (axis,)), ((), ())),
                    precision=precision,
                    preferred_element_type=total_type,
                )
            return total

        def by_group(i, y):
            step = part * (steps // parts) + i
            total = product(step, jnp.zeros((block_m, block_n), total_type))
            group = step // (per_tile * at.per_group)
            return y + total.astype(jnp.float32) * scale(group)[None]

        def whole(i, y):
            return product(part * (steps // parts) + i, y)

        turn, kind = (whole, total_type) if by_column else (by_group, jnp.float32)
        y = lax.fori_loop(0, steps // parts, turn, jnp.zeros((block_m, block_n), kind))
        y = y.astype(jnp.float32)
        if by_column:
            y *= scale(jnp.int32(0))[None]
        if integers:
            x_scale_at = rest[0].at[pl.ds(row, block_m), pl.ds(0, 1)]
            y *= triton.load(x_scale_at, mask=in_m[:, None], other=0)
        y_at = y_ref.at[part, pl.ds(row, block_m), pl.ds(column, block_n)]
        triton.store(y_at, y.astype(y_ref.dtype), mask=in_m[:, None] & in_n[None])

    y = pl.pallas_call(
        kernel,
        grid=(*grid, parts),
        out_shape=dispatch.result(x, (parts, m, n), jnp.dtype(out) if parts == 1 else jnp.float32),
        compiler_params=triton.CompilerParams(num_warps=8 if block_m == 128 else 4, num_stages=3),
        interpret=interpret,
        name="quant_matmul",
    )(x, codes, scales, *([x_scale] if integers else []))
    return (y[0] if parts == 1 else y.sum(0).astype(out),)
