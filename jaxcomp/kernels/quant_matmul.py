"""x times a packed weight whose codes are unpacked inside the product (weight-only).

    y = x @ w,  w = (level - zero) * scale,  level = table[code] or code

A part that a zero point takes is y -= (sums of x over each group) @ (scale * zero), outside the
kernel; so a kernel sees levels around a static offset only. Gradients go to x, scales and zeros.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num

from jaxcomp.base import UnsupportedInput
from jaxcomp.kernels import (
    dispatch,
    quant_matmul_lax,
    quant_matmul_mosaic,
    quant_matmul_triton,
)
from jaxcomp.kernels.packing import TRITS, least_tile, tile_bytes
from jaxcomp.kernels.quant_matmul_lax import Storage

KERNELS = {"cuda": quant_matmul_triton, "tpu": quant_matmul_mosaic}


def run(
    x: Float[Array, "m k"],
    codes: Num[Array, "_ _"],
    scales: Float[Array, "_ _"],
    zeros: Num[Array, "_ _"] | None = None,
    *,
    bits: int,
    tile: int,
    group: int,
    axis: int,
    offset: float | int = 0,
    table: tuple[float, ...] | None = None,
) -> Float[Array, "m n"]:
    """x @ w in x's dtype, summed in float32.

    codes: packing.pack along `axis`, [bytes, n] for axis 0 and [n, bytes] for axis 1; 8 bits are
    int8 and unpacked, or uint8 under a table. They may hold more than k weights. scales, and zeros
    if given: [groups, n] or [n, groups]; one group for group=-1, and 1 may stand for n. Without
    zeros every zero point is `offset`. A table has up to 2**bits levels.
    """
    check(x, codes, scales, zeros, bits=bits, tile=tile, group=group, axis=axis)
    x, codes, scales = dispatch.align(x, codes, scales)
    n = codes.shape[1 - axis]
    scales, zeros = spread_columns(scales, n, axis), spread_columns(zeros, n, axis)
    middle = offset if zeros is None else least_offset(bits, table)
    storage = Storage(bits, tile, axis, middle, table)
    out = x.dtype.name if zeros is None else "float32"
    if 0 in (*x.shape, n):
        return jnp.zeros((x.shape[0], n), x.dtype)
    y = _matmul((storage, out), x, codes, scales)
    if zeros is not None:
        y -= zero_part(x, scales, zeros, codes, storage)
    return y.astype(x.dtype)


def check(x, codes, scales, zeros, *, bits: int, tile: int, group: int, axis: int) -> None:
    """UnsupportedInput where the shapes do not fit each other."""

    def refuse(expected: str, got: object, todo: str):
        raise UnsupportedInput(f"expected {expected}, got {got}; {todo}")

    if axis not in (0, 1):
        refuse("axis 0 or 1", axis, "count it from the left")
    if bits not in range(TRITS, 9):
        refuse("bits from 1 to 8, or TRITS", bits, "store wider codes in a wider dtype")
    length = codes.shape[axis]
    if bits != 8:
        if tile % least_tile(bits) or tile < 1 or length % tile_bytes(tile, bits):
            refuse(f"whole tiles of {tile} codes", f"{length} bytes", "pack with this tile")
        length = length // tile_bytes(tile, bits) * tile
    if x.shape[1] > length:
        refuse(f"at least {x.shape[1]} codes for x {x.shape}", length, "pack the whole weight")
    size = length if group == -1 else group
    whole_tiles = bits == 8 or size % tile == 0
    if size < 1 or length % size or not whole_tiles:
        refuse(f"a group of whole tiles of {tile} that divides {length}", group, "pad the weight")
    for name, each in (("scales", scales), ("zeros", zeros)):
        if each is None:
            continue
        groups, n = each.shape[axis], each.shape[1 - axis]
        if groups != length // size or n not in (1, codes.shape[1 - axis]):
            refuse(
                f"{length // size} groups of {name} along axis {axis} and 1 or "
                f"{codes.shape[1 - axis]} along the other",
                each.shape,
                f"use the group that the {name} were made with",
            )


def spread_columns(each: jax.Array | None, n: int, axis: int) -> jax.Array | None:
    """Scales or zeros with a column for each of n."""
    if each is None or each.shape[1 - axis] == n:
        return each
    return jnp.broadcast_to(each, (each.shape[0], n) if axis == 0 else (n, each.shape[1]))


def least_offset(bits: int, table: tuple[float, ...] | None) -> int:
    """The middle of the codes: what is left of a zero point after it is small."""
    if table is not None or bits == 8:
        return 0
    return 1 if bits == TRITS else 1 << (bits - 1)


def zero_part(
    x: Num[Array, "m k"],
    scales: jax.Array,
    zeros: jax.Array,
    codes: jax.Array,
    storage: Storage,
) -> Float[Array, "m n"]:
    """What x @ w is less for zero points that are not storage.offset, in float32."""
    axis = storage.axis
    at = quant_matmul_lax.layout(codes, scales, storage)
    tile = at.rows if storage.bits == 8 else storage.tile
    padded = at.tiles * tile
    x = jnp.pad(x.astype(jnp.float32), ((0, 0), (0, padded - x.shape[1])))
    sums = x.reshape(x.shape[0], scales.shape[axis], -1).sum(2)
    moved = scales.astype(jnp.float32) * (zeros.astype(jnp.float32) - storage.offset)
    return lax.dot_general(sums, moved, (((1,), (axis,)), ((), ())))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _matmul(static, x, codes, scales):
    storage, out = static
    return _run(x, codes, scales, storage=storage, out=out)[0]


def _forward(static, x, codes, scales):
    return _matmul(static, x, codes, scales), (x, codes, scales)


def _backward(static, saved, g):
    (storage, _), (x, codes, scales) = static, saved
    k = x.shape[1]
    dx = quant_matmul_lax.input_gradient(g, codes, scales, k=k, storage=storage)
    dscales = quant_matmul_lax.scale_gradient(g, x, codes, scales, storage=storage)
    return dx.astype(x.dtype), None, dscales.astype(scales.dtype)


_matmul.defvjp(_forward, _backward)


def reference(x, codes, scales, *, storage: Storage, out: str):
    """The plain lax twin of the kernels, which defines their result."""
    y = quant_matmul_lax.matmul(x, codes, scales, storage=storage)
    return (y.astype(out),)


def supports(x, codes, scales, *, storage: Storage, platform: str) -> bool:
    """Whether `platform` ("cuda" or "tpu") has a kernel for arguments of these shapes and dtypes.

    Arrays or their shapes; scales have a column for each of n; x is of floats, or of int8 for
    quant_matmul_int8.
    """
    at = quant_matmul_lax.layout(codes, scales, storage)
    return platform in KERNELS and KERNELS[platform].supports(x.dtype, at, storage)


def _on(platform: str):
    """The platform's kernel where it supports the arguments, else the reference."""

    def lowered(x, codes, scales, *, storage, out):
        if not supports(x, codes, scales, storage=storage, platform=platform):
            return reference(x, codes, scales, storage=storage, out=out)
        return KERNELS[platform].call(x, codes, scales, storage=storage, out=out)

    return lowered


def _shapes(x, codes, scales, *, storage, out):
    return [((x.shape[0], codes.shape[1 - storage.axis]), jnp.dtype(out))]


def fold(call, batch: int, arrays, **static):
    """vmap: rows of x beside each other where the weight is one, else one product at a time.

    arrays are the activations (each [batch or 1, m, ...]) and, last, codes and scales.
    """
    *rows, codes, scales = arrays
    if len(codes) == len(scales) == 1:
        results = call(*(dispatch.spread(x, batch) for x in rows), codes[0], scales[0], **static)
        return tuple(y.reshape(batch, -1, *y.shape[1:]) for y in results)
    arrays = [jnp.broadcast_to(x, (batch, *x.shape[1:])) for x in arrays]
    return lax.map(lambda each: call(*each, **static), tuple(arrays))


def _fold(batch, arrays, **static):
    return fold(_run, batch, arrays, **static)


_run = dispatch.primitive(
    "quant_matmul",
    shapes=_shapes,
    reference=reference,
    kernels={platform: _on(platform) for platform in ("cuda", "tpu")},
    fold=_fold,
)
