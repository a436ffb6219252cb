"""Blocks rounded to nearest, on any grid of jaxcomp.formats: int8, int4, NF4, float8, ...

    |C(x) - x|^2 <= (1 - delta) |x|^2,   delta = 4 t^2 / (4 t^2 + n - 1)

for integers -t ... t in blocks of n: a block's largest entry is on the grid, and the others are
worst at half a step, where they are lost whole. This is what ZeRO++ (Wang et al., 2023, section
3.1) and LoCo (Xie et al., 2024) send.
"""

import dataclasses

import jax.numpy as jnp

from jaxcomp.base import Compressor, UnsupportedInput
from jaxcomp.formats import INT8
from jaxcomp.formats import format as grids
from jaxcomp.formats.format import Format
from jaxcomp.formats.qtensor import quantize
from jaxcomp.optim.wire import block_of, blocks, check_block, keeps_nothing, restored, wire

# Of delta, what bfloat16 scales leave: they are off by up to 2^-9, the largest entry with them.
SCALES = 0.99


def quantized(format: Format = INT8, *, block: int = 256) -> Compressor:
    """format: symmetric, with scales that are floats, as INT8, INT4 or NF4; its group is not used.

    block of entries that share a scale. Contraction as above for integers, else None.
    """
    grids.check(format)
    check_block(block)
    if format.zero is not None or format.scale not in ("float32", "bfloat16"):
        raise UnsupportedInput(  # scales of float16 end where gradients may go on
            "expected a symmetric format whose scales are float32 or bfloat16, got "
            f"{format}; jc.formats.INT4, say"
        )

    def compress(key, x, state):
        x = jnp.asarray(x)
        length = block_of(x.size, block)
        rows = blocks(x, length)
        finite = jnp.isfinite(rows).all(1, keepdims=True)
        leaf = quantize(jnp.where(finite, rows, 0), format._replace(group=-1), axes=-1)
        leaf = dataclasses.replace(leaf, scales=jnp.where(finite, leaf.scales, jnp.nan))
        return wire(leaf, x), state

    def decompress(sent):
        return restored(sent.parts.dense(), sent)

    def contraction(size):
        square = 4 * grids.top(format) ** 2
        return SCALES * square / (square + max(1, min(block, size)) - 1)

    integers = format.table is None
    return Compressor(
        keeps_nothing,
        compress,
        decompress,
        contraction if integers else None,
        None,
        f"quantized {format}",
    )
