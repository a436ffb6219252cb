"""Packed tokens by kernels/kv_attention, which never makes them dense, where a chip has a kernel.

It is for a few queries at a time: decoding. Elsewhere, on a CPU, for prompts, and for formats that
no kernel reads, blockwise walks over blocks that it makes dense. Both come to the same: programs
choose when they are compiled for a platform.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.formats import format as grids
from jaxcomp.formats.qtensor import QTensor
from jaxcomp.kernels import kv_attention
from jaxcomp.kernels.kv_attention_lax import Side, merge
from jaxcomp.kernels.quant_matmul_lax import Storage

FLOATS = "bfloat16", "float16", "float32"  # that scales and zeros may be


def by_kernel(
    keys: Any, values: Any, kinds: list[Any], count: jax.Array, first: int
) -> Callable[..., Any] | None:
    """What blockwise.Segment.kernel is, for `count` i32[batch] tokens in chunks; None if none is.

    keys, values  leaves f[batch, heads, chunks, group, size], bfloat16 as u16
    kinds         the leaves that they stand for, as shapes
    first         position of the first token
    """
    sides = [_side(leaf, kind) for leaf, kind in zip((keys, values), kinds, strict=True)]
    if None in sides:
        return None
    (keys, key_storage), (values, value_storage) = sides
    storages = key_storage, value_storage

    def attend(q, at, state, walk, scale):
        batch, heads, _, _, size = q.shape
        rows = q.reshape(batch, heads, -1, size)
        platforms = [
            platform
            for platform in kv_attention.KERNELS
            if kv_attention.supports(rows, keys, values, storages=storages, platform=platform)
        ]
        if not platforms:
            return walk(state)
        limits = jnp.clip(at + 1 - first, 0, count[:, None])[:, None]
        limits = jnp.broadcast_to(limits, (batch, *q.shape[2:4])).reshape(batch, -1)

        def fast(state):
            found = kv_attention.run(rows, limits, keys, values, storages=storages, scale=scale)
            found = (x.reshape(old.shape) for x, old in zip(found, state, strict=True))
            pairs = zip(state, found, (-1, -1, -2), strict=True)
            return merge(*(jnp.stack(pair, axis) for *pair, axis in pairs))

        return lax.platform_dependent(
            state, default=walk, **{platform: fast for platform in platforms}
        )

    return attend


def _side(leaf: Any, kind: Any) -> tuple[Side, Storage] | None:
    """A leaf as kv_attention takes it; None for a leaf that no kernel reads."""
    if not isinstance(leaf, QTensor) or len(leaf.packed) != 1:
        return None
    format, axis = leaf.format, {-1: 1, -2: 0}.get(leaf.packed[0][0])
    table = grids.table(format)
    plain = format.scale in FLOATS and format.zero in (None, "uint8", *FLOATS)
    if axis is None or not plain or format.group is None or format.bits not in (1, 2, 4, 8):
        return None
    size = leaf.codes.shape[3 + axis] * 8 // format.bits
    if size != leaf.packed[0][1]:  # the last group is filled up
        return None

    def kept(x, kind):
        if x is None or kind.dtype != jnp.float16:
            return x
        return lax.bitcast_convert_type(x, jnp.float16) if x.dtype == jnp.uint16 else x

    offset = format.offset if format.zero is None or table is not None else 0
    scales = kept(leaf.scales, kind.scales)
    side = Side(leaf.codes, scales, kept(leaf.zeros, kind.zeros))
    return side, Storage(format.bits, format.tile, axis, offset, table)
