"""One step of an optimizer whose moments are codes in blocks: read, moved and written at once.

    x = level(code) * scale          of each moment, for a block of entries that share a scale
    update, x = rule(g, x)           in float32
    scale = max |x|,  code = nearest(x / scale)

Dettmers et al., 8-bit Optimizers via Block-wise Quantization, ICLR 2022, section 2. Moments in
float32 never reach memory: 12 bytes an entry move instead of the 24 of float32 moments. The rules
are those of Adam, Lion and momentum (adam8bit_lax); maps are of dynamic_map.

A block of which any moment is not finite, or beyond 2^125, keeps its codes and scales; the updates
of its entries that are not finite are NaN, so that they are seen. A block whose moments are all
below 2^-125 becomes zeros.

Kernel and reference do the same in the same order, but not all compilers round divisions, roots and
fused products alike: between them a code may be its neighbour.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32

from jaxcomp.base import UnsupportedInput
from jaxcomp.kernels import dispatch
from jaxcomp.kernels.adam8bit_cpu import cpu
from jaxcomp.kernels.adam8bit_lax import NUMBERS as NUMBERS
from jaxcomp.kernels.adam8bit_lax import Moment as Moment
from jaxcomp.kernels.adam8bit_lax import Rule, moments_of, reference, step
from jaxcomp.kernels.adam8bit_lax import adam as adam
from jaxcomp.kernels.adam8bit_lax import lion as lion
from jaxcomp.kernels.adam8bit_lax import momentum as momentum
from jaxcomp.kernels.adam8bit_sharded import by_shard
from jaxcomp.kernels.dynamic_map import Map

GPU_TILE = 2048  # entries of one program, 16 for each thread of 4 warps
TPU_ROWS = 32  # of one cell: a tile of bytes
TPU_MEMORY = 64 << 20  # of 128 MiB: a cell of 32 rows and 128 blocks of 256 takes 12, twice
TPU_BLOCKS = 128  # of one cell: a row of lanes holds the scales of as many


def run(
    rule: Rule,
    g: Float[Array, "*lead n"],
    moments: tuple[Moment, ...],
    numbers: Float32[Array, " k"],
    *,
    maps: tuple[Map, ...],
    block: int = 256,
) -> tuple[Float32[Array, "*lead n"], tuple[Moment, ...]]:
    """(update, moments) by one of the rules above. n is a multiple of block, block of 16."""
    _check(rule, g, moments, numbers, maps, block)
    arrays = [x for moment in moments for x in moment]
    static = {"rule": rule, "maps": maps, "block": block}
    update, *parts = by_shard(_run, g, numbers, *arrays, **static)
    return update, moments_of(parts)


def supports(g: Any, maps: tuple[Map, ...], block: int, platform: str) -> bool:
    """Whether `platform` ("cuda" or "tpu") has a kernel for g of this shape."""
    if g.size == 0 or g.dtype not in (jnp.float32, jnp.bfloat16):
        return False
    fours = any(map.bits == 4 for map in maps)
    if platform == "tpu":  # each half of a block is whole rows of lanes
        return block % (256 if fours else 128) == 0 and block <= 512
    return platform == "cuda" and block & block - 1 == 0 and 32 <= block <= GPU_TILE


def cuda(g: Array, numbers: Array, *arrays: Array, rule: Rule, maps, block: int, interpret=False):
    """A program takes whole blocks; a moment of 4 bits makes it take the halves of each apart."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    rows, take = g.size // block, GPU_TILE // block
    halves = 2 if any(map.bits == 4 for map in maps) else 1
    widths = [block * map.bits // 8 for map in maps]

    def kernel(g_ref, numbers_ref, *refs):
        start = pl.program_id(0) * take
        inside = start + lax.iota(jnp.int32, take) < rows
        scalars = [numbers_ref[i] for i in range(NUMBERS[rule])]

        def at(ref, width, part=0, parts=1):
            return ref.at[pl.ds(start, take), pl.ds(part * (width // parts), width // parts)]

        def load(ref, width, parts):
            mask = jnp.broadcast_to(inside[:, None], (take, width // parts))
            return [triton.load(at(ref, width, i, parts), mask=mask, other=0) for i in range(parts)]

        def store(ref, width, values):
            for i, value in enumerate(values):
                mask = jnp.broadcast_to(inside[:, None], value.shape)
                triton.store(at(ref, width, i, len(values)), value.astype(ref.dtype), mask=mask)

        read, update_ref, written = (
            refs[: 2 * len(maps)],
            refs[2 * len(maps)],
            refs[-2 * len(maps) :],
        )
        held = [
            Moment(load(codes, width, 1 if map.bits == 4 else halves), load(scales, 1, 1)[0])
            for map, width, codes, scales in zip(maps, widths, read[::2], read[1::2], strict=True)
        ]
        updates, moments = step(rule, maps, load(g_ref, block, halves), held, scalars)
        store(update_ref, block, updates)
        for moment, width, codes, scales in zip(
            moments, widths, written[::2], written[1::2], strict=True
        ):
            store(codes, width, moment.codes)
            store(scales, 1, [moment.scales])

    flat = [x.reshape(rows, -1) for x in arrays]
    results = pl.pallas_call(
        kernel,
        grid=(pl.cdiv(rows, take),),
        out_shape=[
            dispatch.result(g, (rows, block), jnp.float32),
            *(dispatch.result(g, x.shape, x.dtype) for x in flat),
        ],
        input_output_aliases={2 + i: 1 + i for i in range(len(flat))},
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name=f"{rule.__name__}8bit",
    )(g.reshape(rows, block), *dispatch.align(g, numbers, *flat)[1:])
    return tuple(x.reshape(y.shape) for x, y in zip(results, [g, *arrays], strict=True))


def tpu(g: Array, numbers: Array, *arrays: Array, rule: Rule, maps, block: int, interpret=False):
    """Rows of g as they lie, and their blocks one after another: a cell has 128, or all of a row.

    A block's scales are a column of those of the cell, picked by a mask.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    n = g.shape[-1] if g.size > g.shape[-1] else block  # a single row becomes many
    rows, blocks = g.size // n, n // block
    take = min(blocks, TPU_BLOCKS)
    halves = 2 if any(map.bits == 4 for map in maps) else 1
    widths = [block * map.bits // 8 for map in maps]

    def kernel(numbers_ref, g_ref, *refs):
        scalars = [numbers_ref[i] for i in range(NUMBERS[rule])]
        read, update_ref, written = (
            refs[: 2 * len(maps)],
            refs[2 * len(maps)],
            refs[-2 * len(maps) :],
        )
        lane = lax.broadcasted_iota(jnp.int32, (TPU_ROWS, take), 1)

        def at(width, j, part=0, parts=1):
            size = width // parts
            return slice(None), pl.ds(pl.multiple_of(j * width + part * size, size), size)

        def load(ref, width, j, parts):
            return [ref[at(width, j, i, parts)] for i in range(parts)]

        def turn(j, scales):
            here = lane == j
            held = [
                Moment(
                    load(codes, width, j, 1 if map.bits == 4 else halves),
                    jnp.where(here, old[...], 0).sum(1, keepdims=True),
                )
                for map, width, codes, old in zip(maps, widths, read[::2], read[1::2], strict=True)
            ]
            updates, moments = step(rule, maps, load(g_ref, block, j, halves), held, scalars)
            for i, update in enumerate(updates):
                update_ref[at(block, j, i, halves)] = update
            for moment, width, codes in zip(moments, widths, written[::2], strict=True):
                for i, each in enumerate(moment.codes):
                    codes[at(width, j, i, len(moment.codes))] = each
            return [
                jnp.where(here, moment.scales, new)
                for moment, new in zip(moments, scales, strict=True)
            ]

        empty = [jnp.zeros((TPU_ROWS, take), jnp.float32) for _ in maps]
        for ref, scales in zip(written[1::2], lax.fori_loop(0, take, turn, empty), strict=True):
            ref[...] = scales

    flat = [g.reshape(rows, n), *(x.reshape(rows, -1) for x in arrays)]
    spec = lambda x: pl.BlockSpec((TPU_ROWS, x.shape[1] * take // blocks), lambda i, j: (i, j))  # noqa: E731
    specs = [spec(x) for x in flat]
    results = pl.pallas_call(
        kernel,
        grid=(pl.cdiv(rows, TPU_ROWS), pl.cdiv(blocks, take)),
        in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM), *specs],
        out_specs=specs,
        out_shape=[
            dispatch.result(g, (rows, n), jnp.float32),
            *(dispatch.result(g, x.shape, x.dtype) for x in flat[1:]),
        ],
        input_output_aliases={2 + i: 1 + i for i in range(len(flat) - 1)},
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=TPU_MEMORY
        ),
        interpret=interpret,
        name=f"{rule.__name__}8bit",
    )(*dispatch.align(numbers, *flat))
    return tuple(x.reshape(y.shape) for x, y in zip(results, [g, *arrays], strict=True))


def _fold(size, arrays, **static):
    """A batch becomes rows where all share the numbers; else one after another."""
    g, numbers, *rest = arrays
    if numbers.shape[0] > 1:
        arrays = [jnp.broadcast_to(x, (size, *x.shape[1:])) for x in arrays]
        return lax.map(lambda each: _run(*each, **static), arrays)
    results = _run(
        dispatch.spread(g, size), numbers[0], *(dispatch.spread(x, size) for x in rest), **static
    )
    return tuple(x.reshape(size, -1, *x.shape[1:]) for x in results)


def _on(platform: str):
    """The platform's kernel where it supports the arguments, else the reference."""

    def lowered(g, *arrays, rule, maps, block):
        kernel = {"cuda": cuda, "tpu": tpu}[platform]
        call = kernel if supports(g, maps, block, platform) else reference
        return call(g, *arrays, rule=rule, maps=maps, block=block)

    return lowered


def _shapes(g, numbers, *arrays, **_):
    return [(g.shape, jnp.float32), *((x.shape, x.dtype) for x in arrays)]


_run = dispatch.primitive(
    "adam8bit",
    shapes=_shapes,
    reference=reference,
    kernels={"cpu": cpu, "cuda": _on("cuda"), "tpu": _on("tpu")},
    fold=_fold,
)


def _check(rule, g, moments, numbers, maps, block) -> None:
    """UnsupportedInput where shapes do not fit."""

    def refuse(expected, got, todo):
        raise UnsupportedInput(f"expected {expected}, got {got}; {todo}")

    if type(block) is not int or block < 16 or block % 16:
        refuse("block, a multiple of 16", repr(block), "256 is usual")
    if g.ndim == 0 or g.shape[-1] % block:
        refuse(f"a last axis of whole blocks of {block}", g.shape, "fill it up with zeros")
    if len(moments) != len(maps) or numbers.shape != (NUMBERS[rule],):
        refuse(f"{len(maps)} moments and {NUMBERS[rule]} numbers", len(moments), "see the rule")
    for moment, map in zip(moments, maps, strict=True):
        shapes = [
            (*g.shape[:-1], g.shape[-1] * map.bits // 8),
            (*g.shape[:-1], g.shape[-1] // block),
        ]
        if [moment.codes.shape, moment.scales.shape] != shapes:
            refuse(f"codes and scales {shapes}", moment, "one scale for each block")
