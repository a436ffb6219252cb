"""x times a packed weight with x rounded to int8: the products are integers, summed in int32.

    x ~ x_codes * x_scale,  y = x_scale * sum over groups of scale * (x_codes @ (level - zero))

Levels are integers of 8 bits, so there is no table. `run` rounds x itself, each row by its own
largest magnitude (symmetric, 127 levels on either side); `run_quantised` takes x rounded already.
The gradient of `run` is that of the product with x as it was: straight through.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8, Num

from jaxcomp.base import UnsupportedInput
from jaxcomp.kernels import dispatch, quant_matmul, quant_matmul_lax, quant_matmul_lax_few
from jaxcomp.kernels.quant_matmul_lax import Storage

LEVELS = 127  # on either side of zero: -128 would have no opposite


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
) -> Float[Array, "m n"]:
    """x @ w in x's dtype, with each row of x rounded to int8; arguments as quant_matmul.run."""
    x, codes, scales = dispatch.align(x, codes, scales)
    zeros = None if zeros is None else dispatch.align(zeros, x)[0]
    static = (bits, tile, group, axis, offset)
    return _straight_through(static, x, codes, scales, zeros)


def quantise(x: Float[Array, "m k"]) -> tuple[Int8[Array, "m k"], Float[Array, "m 1"]]:
    """Rows of x as integers of at most 127, to nearest, and their scales: max|x| / 127."""
    x = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x), axis=1, keepdims=True, initial=0) / LEVELS
    inverse = jnp.where(scale > 0, 1 / jnp.where(scale > 0, scale, 1), 0)
    return jnp.clip(jnp.round(x * inverse), -LEVELS, LEVELS).astype(jnp.int8), scale


def run_quantised(
    x_codes: Int8[Array, "m k"],
    x_scale: Float[Array, "m 1"],
    codes: Num[Array, "_ _"],
    scales: Float[Array, "_ _"],
    zeros: Num[Array, "_ _"] | None = None,
    *,
    bits: int,
    tile: int,
    group: int,
    axis: int,
    offset: float | int = 0,
    dtype=jnp.float32,
) -> Float[Array, "m n"]:
    """(x_codes * x_scale) @ w in `dtype`. No gradient: its first argument is integers."""
    quant_matmul.check(x_codes, codes, scales, zeros, bits=bits, tile=tile, group=group, axis=axis)
    if bits == 8 and codes.dtype != jnp.int8:
        raise UnsupportedInput(f"expected int8 codes of 8 bits, got {codes.dtype}; convert them")
    x_codes, x_scale, codes, scales = dispatch.align(x_codes, x_scale, codes, scales)
    n = codes.shape[1 - axis]
    scales = quant_matmul.spread_columns(scales, n, axis)
    middle = quant_matmul.least_offset(bits, None)
    if zeros is None and offset != middle:
        zeros = jnp.full(scales.shape, offset, jnp.float32)
    zeros = quant_matmul.spread_columns(zeros, n, axis)
    storage = Storage(bits, tile, axis, middle, None)
    if 0 in (*x_codes.shape, n):
        return jnp.zeros((len(x_codes), n), dtype)
    out = jnp.dtype(dtype).name if zeros is None else "float32"
    (y,) = _run(x_codes, x_scale, codes, scales, storage=storage, out=out)
    if zeros is not None:
        y -= x_scale * quant_matmul.zero_part(x_codes, scales, zeros, codes, storage)
    return y.astype(dtype)


def _call(static, x, codes, scales, zeros):
    bits, tile, group, axis, offset = static
    options = {"bits": bits, "tile": tile, "group": group, "axis": axis, "offset": offset}
    return run_quantised(*quantise(x), codes, scales, zeros, **options, dtype=x.dtype)


_straight_through = jax.custom_vjp(_call, nondiff_argnums=(0,))


def _forward(static, x, codes, scales, zeros):
    return _straight_through(static, x, codes, scales, zeros), (x, codes, scales, zeros)


def _backward(static, saved, g):
    bits, tile, group, axis, offset = static
    options = {"bits": bits, "tile": tile, "group": group, "axis": axis, "offset": offset}
    x, codes, scales, zeros = saved

    def product(x, scales, zeros):
        return quant_matmul.run(x, codes, scales, zeros, **options)

    _, pull = jax.vjp(product, x, scales, zeros)
    dx, dscales, dzeros = pull(g)
    return dx, None, dscales, dzeros


_straight_through.defvjp(_forward, _backward)


def reference(x_codes, x_scale, codes, scales, *, storage: Storage, out: str):
    """The plain lax twin of the kernels, which defines their result."""
    few = quant_matmul_lax_few.supports(x_codes.shape[0], codes, scales, storage)
    plain = quant_matmul_lax_few if few else quant_matmul_lax
    y = plain.int8_matmul(x_codes, codes, scales, storage=storage)
    return ((y * x_scale).astype(out),)


supports = quant_matmul.supports  # of x_codes, codes and scales


def _on(platform: str):
    """The platform's kernel where it supports the arguments, else the reference."""

    def lowered(x_codes, x_scale, codes, scales, *, storage, out):
        static = {"storage": storage, "out": out}
        kernel = quant_matmul.KERNELS[platform]
        if not supports(x_codes, codes, scales, storage=storage, platform=platform):
            return reference(x_codes, x_scale, codes, scales, **static)
        return kernel.call(x_codes, codes, scales, x_scale, **static)

    return lowered


def _shapes(x_codes, x_scale, codes, scales, *, storage, out):
    return [((x_codes.shape[0], codes.shape[1 - storage.axis]), jnp.dtype(out))]


def _fold(batch, arrays, **static):
    return quant_matmul.fold(_run, batch, arrays, **static)


_run = dispatch.primitive(
    "quant_matmul_int8",
    shapes=_shapes,
    reference=reference,
    kernels={platform: _on(platform) for platform in ("cuda", "tpu")},
    fold=_fold,
)
