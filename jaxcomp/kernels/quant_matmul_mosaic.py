"""The products of quant_matmul and quant_matmul_int8 as a Mosaic kernel, for TPUs.

The grid walks rows, columns and, innermost, tiles of k, whose products are added in place. As on a
GPU the codes of each slice meet their own slice of x; here x is cut into slices beforehand. Codes
that lie along lanes (axis 1) are taken 128 at a time, with zeros for what of x belongs to other
tiles, since a product is 128 deep in any case. A chip without small integers in its vector unit
unpacks in int32.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.kernels import dispatch
from jaxcomp.kernels.quant_matmul_lax import Layout, Storage, code, layout, levels, slices

LANES = 128
SUBLANES = 32  # rows of a register of bytes
TILES = 8  # of one block: their scales fill the sublanes of a register
BLOCK_M, BLOCK_N = 256, 512


def _retiled(at: Layout, storage: Storage) -> Layout:
    """Codes of 8 bits have no tiles: 128 at a time, if that divides a group."""
    if storage.bits != 8 or at.rows % LANES:
        return at
    times = at.rows // LANES
    return at._replace(tiles=at.tiles * times, rows=LANES, per_group=at.per_group * times)


def supports(x_dtype, at: Layout, storage: Storage) -> bool:
    """Whether the kernel takes the arguments: tiles of 128 codes of 8, 4 or 2 bits."""
    if storage.bits not in (2, 4, 8):
        return False
    at = _retiled(at, storage)
    fits = at.rows in (32, 64, 128) and at.columns % LANES == 0
    whole = storage.axis == 0 or min(TILES, at.tiles) * at.rows % LANES == 0
    small = storage.table is None or (storage.bits < 8 and len(storage.table) <= 16)
    known = x_dtype in (jnp.dtype("float32"), jnp.dtype("bfloat16"), jnp.dtype("int8"))
    return fits and whole and small and known


def _levels(codes: jax.Array, storage: Storage, dtype) -> jax.Array:
    """As quant_matmul_lax.levels, for codes in int32."""
    if storage.table is not None:
        return levels(codes, storage).astype(dtype)
    if dtype == jnp.int8:
        return (codes - int(storage.offset)).astype(dtype)
    return (codes.astype(jnp.float32) - storage.offset).astype(dtype)


def call(x, codes, scales, x_scale=None, *, storage: Storage, out: str, interpret: bool = False):
    """x [m, k] @ w in dtype `out`, times x_scale [m, 1] where x is integers. Returns a tuple."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    axis, at = storage.axis, _retiled(layout(codes, scales, storage), storage)
    integers, m = x.dtype == jnp.int8, x.shape[0]
    least = SUBLANES // x.dtype.itemsize
    block_m = min(BLOCK_M, -(-m // least) * least)
    block_n = next(size for size in (BLOCK_N, 256, LANES) if at.columns % size == 0)
    tiles, all_m = min(TILES, at.tiles), -(-m // block_m) * block_m
    by_column = at.per_group == at.tiles
    total_type = jnp.int32 if integers else jnp.float32
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    beside = LANES // at.rows if axis == 1 else 1  # tiles in one row of lanes

    x = jnp.pad(x, ((0, all_m - m), (0, 0)))
    xs = slices(x, at, storage._replace(tile=at.slices * at.rows)).transpose(2, 0, 1, 3)
    if beside > 1:  # [t, s, m, r] -> [t, s, m, 128], each at its place
        here = jnp.arange(at.tiles)[:, None] % beside == jnp.arange(beside)
        xs = jnp.where(here[:, None, None, :, None], xs[:, :, :, None], 0)
        xs = xs.reshape(at.tiles, at.slices, all_m, LANES)
    scales = (scales if axis == 0 else scales.T).astype(jnp.float32)  # [groups, n]
    if not by_column:
        scales = scales.repeat(at.per_group, 0)

    def kernel(x_ref, codes_ref, scales_ref, *rest):
        *rest, y_ref, sum_ref = rest
        step = pl.program_id(2)

        @pl.when(step == 0)
        def _():
            sum_ref[...] = jnp.zeros_like(sum_ref)

        total = sum_ref[...]
        for t in range(tiles):
            if axis == 0:
                block = codes_ref[pl.ds(t * at.rows, at.rows), :]
            else:
                block = codes_ref[:, pl.ds(t // beside * LANES, LANES)]
            if storage.bits != 8 or not integers:
                block = block.astype(jnp.int32)
            part = jnp.zeros(sum_ref.shape, total_type)
            for j in range(at.slices):
                one = code(lambda _, block=block: block, j, storage.bits)
                plain = storage.bits == 8 and integers
                part += lax.dot_general(
                    x_ref[t, j],
                    one if plain else _levels(one, storage, x.dtype),
                    (((1,), (axis,)), ((), ())),
                    precision=precision,
                    preferred_element_type=total_type,
                )
            if not by_column:
                part = part.astype(jnp.float32) * scales_ref[pl.ds(t, 1), :]
            if at.tiles % tiles:  # the last block ends beyond k, in no one's memory
                part = jnp.where(step * tiles + t < at.tiles, part, 0)
            total += part
        sum_ref[...] = total

        @pl.when(step == pl.num_programs(2) - 1)
        def _():
            y = sum_ref[...].astype(jnp.float32)
            if by_column:
                y *= scales_ref[...]
            if integers:
                y *= rest[0][...]
            y_ref[...] = y.astype(y_ref.dtype)

    depth, length = tiles * at.rows, xs.shape[-1]
    if axis == 0:
        codes_spec = pl.BlockSpec((depth, block_n), lambda i, j, k: (k, j))
    else:
        codes_spec = pl.BlockSpec((block_n, depth), lambda i, j, k: (j, k))
    group_spec = pl.BlockSpec(
        (1 if by_column else tiles, block_n), lambda i, j, k: (0 if by_column else k, j)
    )
    specs = [
        pl.BlockSpec((tiles, at.slices, block_m, length), lambda i, j, k: (k, 0, i, 0)),
        codes_spec,
        group_spec,
    ]
    arrays = [xs, codes, scales]
    if integers:
        specs.append(pl.BlockSpec((block_m, 1), lambda i, j, k: (i, 0)))
        arrays.append(jnp.pad(x_scale, ((0, all_m - m), (0, 0))))
    y = pl.pallas_call(
        kernel,
        grid=(all_m // block_m, at.columns // block_n, pl.cdiv(at.tiles, tiles)),
        in_specs=specs,
        out_specs=pl.BlockSpec((block_m, block_n), lambda i, j, k: (i, j)),
        out_shape=dispatch.result(x, (all_m, at.columns), jnp.dtype(out)),
        scratch_shapes=[pltpu.VMEM((block_m, block_n), total_type if by_column else jnp.float32)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        interpret=interpret,
        name="quant_matmul",
    )(*arrays)
    return (y[:m],)
