"""QTensor: codes, scales and zeros of a weight on a grid, packed into bytes. See format.py.

    weight = (level(code) - zero) * scale

codes  u8[..., in', ...] by kernels/packing.py; signed i8 for integers of 8 bits
scales a float array, u8 exponents for "e8m0", or a QTensor, [..., groups, ...]
zeros  None, or as scales
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.formats.format import Format
from jaxcomp.formats.layout import Layout, from_matrix, layout, merged_axis, to_matrix, unmerge
from jaxcomp.formats.leaf import Leaf, check_floating, leaf_class, map_leading, static
from jaxcomp.kernels import packing, quant_matmul, quant_matmul_int8
from jaxcomp.kernels.quant_matmul_lax import Storage


@leaf_class
class QTensor(Leaf):
    """A weight on a grid, of any shape; `quantize` makes one by rounding to nearest."""

    codes: Any
    scales: Any
    zeros: Any
    format: Format = static()
    dtype: Any = static()
    packed: Any = static()

    follows = ("codes", "scales", "zeros")

    @jax.jit  # where it is not in a program, it is one: many small ones take long to compile
    def dense(self) -> jax.Array:
        axis = merged_axis(self.packed)
        codes = unpacked(self.codes, self.format, axis)
        values = grids.value(codes, self.format)
        place = values.ndim + axis
        split = (*values.shape[:place], self._groups, -1, *values.shape[place + 1 :])
        grouped = values.reshape(split)  # [..., groups, group, ...]
        if self.zeros is not None:
            grouped = grouped - jnp.expand_dims(_read(self.zeros, self.format.zero), place + 1)
        grouped = grouped * jnp.expand_dims(_read(self.scales, self.format.scale), place + 1)
        size = math.prod(size for _, size in self.packed)
        true = jax.lax.slice_in_dim(grouped.reshape(values.shape), 0, size, axis=place)
        return unmerge(true, self.packed).astype(self.dtype)

    def matmul(self, x: jax.Array) -> jax.Array:
        return self._multiplied(
            x, functools.partial(quant_matmul.run, table=grids.table(self.format))
        )

    @property
    def has_integers(self) -> bool:
        """Whether its levels are integers of 8 bits, so that matmul_int8 works."""
        table = grids.table(self.format)
        return table is None or table == tuple(range(len(table)))

    def matmul_int8(self, x: jax.Array) -> jax.Array:
        """matmul with each row of x rounded to int8; the products are sums of integers."""
        return self._multiplied(x, quant_matmul_int8.run)

    def _multiplied(self, x: jax.Array, run: Callable[..., jax.Array]) -> jax.Array:
        axis = self.codes.ndim + merged_axis(self.packed)
        left, right = self.codes.shape[:axis], self.codes.shape[axis + 1 :]
        if left and right:  # outputs on both sides of the packed axis
            return map_leading(lambda w: w._multiplied(x, run), self, out_axis=1)
        scales, zeros = read(self.scales, self.zeros, self.format)
        if zeros is not None and self.codes.dtype == jnp.int8:
            zeros = zeros - 128  # as the signed codes are
        kept = [
            None if p is None else _flat(p, axis, left, right) for p in (self.codes, scales, zeros)
        ]
        out = run(x, *kept, **self._static(), axis=1 if left else 0)
        return out.reshape(x.shape[0], *left, *right)

    def kernel(self, platform: str, dtype: Any = None) -> tuple[str, str]:
        if platform == "cpu":
            return "blocked lax", ""
        axis = self.codes.ndim + merged_axis(self.packed)
        left, right = self.codes.shape[:axis], self.codes.shape[axis + 1 :]
        length, outputs, groups = self.codes.shape[axis], math.prod(right or left), self._groups
        given = self._static()
        given.pop("group")
        storage = Storage(**given, axis=0 if right else 1, table=grids.table(self.format))

        def stored(size, dtype):
            return jax.ShapeDtypeStruct((size, outputs) if right else (outputs, size), dtype)

        x = jax.ShapeDtypeStruct((1, self.layout.size_in), dtype or self.dtype)
        codes, scales = stored(length, self.codes.dtype), stored(groups, jnp.float32)
        if quant_matmul.supports(x, codes, scales, storage=storage, platform=platform):
            return "quant_matmul", ""
        return "blocked lax", f"no kernel for {self.format} on {platform}"

    @property
    def _groups(self) -> int:
        """Scales along the packed axis."""
        axis = merged_axis(self.packed)
        return 1 if self.format.group in (None, -1) else self.scales.shape[axis]

    def _static(self) -> dict[str, Any]:
        format = self.format
        signed = self.codes.dtype == jnp.int8
        return {
            "bits": format.bits,
            "tile": format.tile,
            "group": -1 if format.group is None else format.group,
            "offset": format.offset - 128 if signed else format.offset,
        }

    def describe(self) -> str:
        return str(self.format)

    def placed(self, place: Layout) -> "QTensor":
        """From the matrix [out, in] that it is, to where `place` says."""

        def inner(part):
            if isinstance(part, QTensor):
                merged = ((merged_axis(place.packed), part.packed[0][1]),)
                arrays = (part.codes, part.scales, part.zeros)
                arrays = [None if a is None else inner(a) for a in arrays]
                return QTensor(*arrays, part.format, part.dtype, merged)
            return from_matrix(part, place)

        zeros = None if self.zeros is None else inner(self.zeros)
        return dataclasses.replace(
            self,
            codes=inner(self.codes),
            scales=inner(self.scales),
            zeros=zeros,
            packed=place.packed,
        )


def quantize(w: ArrayLike, format: Format, axes: int | tuple[int, ...] = -2) -> QTensor:
    """w rounded to the nearest codes of the grid that spans each group (round to nearest).

    axes: what a product with w sums over, -2 for a kernel [in, out]. A format with one scale for a
    matrix has one for each of a stack, so that matrices may be sliced off: axes before the packed
    ones and the second last stand for a stack.
    UnsupportedInput for a w that is not of a floating dtype, or, outside jit, not finite.
    """
    w = jnp.asarray(w)
    check_floating(w, "w")
    check_concrete(w, "w")
    return _quantize(w, format, (axes,) if isinstance(axes, int) else tuple(axes))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _quantize(w: jax.Array, format: Format, axes: tuple[int, ...]) -> QTensor:
    if _is_whole(format):
        packed = layout(w.shape, axes).axes
        if w.ndim > max(2, len(packed) + 1, -packed[0]):
            return jax.vmap(lambda w: _quantize(w, format, packed))(w)
    matrix, place = to_matrix(w, axes)
    return from_groups(matrix.astype(jnp.float32), format, dtype=w.dtype).placed(place)


def _is_whole(format: Any) -> bool:
    """Whether one scale, or scale of scales, is for a whole matrix."""
    return isinstance(format, Format) and (
        format.group is None or _is_whole(format.scale) or _is_whole(format.zero)
    )


def from_groups(
    w: Float[Array, "out in"],
    format: Format,
    *,
    scales: Float[Array, "out groups"] | None = None,
    zeros: Float[Array, "out groups"] | None = None,
    dtype: Any = jnp.float32,
) -> QTensor:
    """The matrix rounded to nearest; scales and zeros fit each group where they are not given."""
    grouped = grids.in_groups(w, format)
    if scales is None:
        scales, zeros = grids.fit(grouped, format)
    kept, kept_zeros = store(scales, zeros, format)
    codes, _ = grids.round_to(grouped, *read(kept, kept_zeros, format), format)
    rows = codes.reshape(1, -1) if format.group is None else codes.reshape(w.shape[0], -1)
    if format.group is None:
        rows = rows.reshape(w.shape)
    return from_codes(rows, kept, kept_zeros, format, size=w.shape[1], dtype=dtype)


def from_codes(
    codes: Integer[Array, "out in"],
    scales: Any,
    zeros: Any,
    format: Format,
    *,
    size: int,
    dtype: Any = jnp.float32,
) -> QTensor:
    """A matrix as QTensor, of codes from 0 on and of what `store` made of scales and zeros.

    codes may have `size` columns, or as many as whole groups have.
    """
    grids.check(format)
    format = grids.with_tile(format, size)
    padded = grids.padded_size(size, format)
    padded = -(-padded // format.tile) * format.tile
    codes = jnp.pad(codes, ((0, 0), (0, padded - codes.shape[1])))
    if format.bits == 8 and format.table is None:
        kept = (codes - 128).astype(jnp.int8)
    else:
        kept = packing.pack(codes.astype(jnp.uint8), format.bits, axis=1, tile=format.tile)
    return QTensor(kept, scales, zeros, format, jnp.dtype(dtype), ((-1, size),))


def unpacked(codes: jax.Array, format: Format, axis: int) -> Integer[Array, "..."]:
    """Codes from 0 on, as i32, one per value along the merged axis."""
    if codes.dtype == jnp.int8:
        return codes.astype(jnp.int32) + 128
    codes = packing.unpack(codes, format.bits, axis=axis, tile=format.tile)
    return codes.astype(jnp.int32)


def store(
    scales: Float[Array, "out groups"], zeros: Float[Array, "out groups"] | None, format: Format
) -> tuple[Any, Any]:
    """Scales and zeros as they are kept: rounded to their dtype, or to a grid of their own."""
    return _keep(scales, format.scale), None if zeros is None else _keep(zeros, format.zero)


def read(scales: Any, zeros: Any, format: Format) -> tuple[jax.Array, jax.Array | None]:
    """The float32 values of what `store` returned."""
    return _read(scales, format.scale), None if zeros is None else _read(zeros, format.zero)


def _keep(x: jax.Array, how: "str | Format") -> Any:
    if isinstance(how, Format):
        return from_groups(x, how)
    if how == "e8m0":  # the nearest power of two, in the exponent
        exponent = jnp.round(jnp.log2(jnp.maximum(x, 2.0**-126)))
        return jnp.clip(exponent + grids.E8M0_BIAS, 0, 254).astype(jnp.uint8)
    if jnp.issubdtype(how, jnp.floating) and jnp.finfo(how).bits < 32:
        most = float(jnp.finfo(how).max)
        x = jnp.clip(x, -most, most)  # no infinity, so that the weight is finite
    return x.astype(how)


def _read(kept: Any, how: "str | Format") -> jax.Array:
    if isinstance(kept, QTensor):
        return kept.dense().astype(jnp.float32)
    if how == "e8m0":
        return grids.power_of_two(kept)
    if kept.dtype == jnp.uint16:  # bits of a float, as caches hold them
        kept = lax.bitcast_convert_type(kept, how)
    return kept.astype(jnp.float32)


def _flat(part: jax.Array, axis: int, left: tuple[int, ...], right: tuple[int, ...]) -> jax.Array:
    """A packed array as a matrix, free axes merged: [in', out], or [out, in'] if they are left.

    1 stands for out in what is shared by all outputs.
    """
    if part.size != part.shape[axis]:  # shared by some of them, as scales of stacked matrices are
        part = jnp.broadcast_to(part, (*left, part.shape[axis], *right))
    return part.reshape(-1, part.shape[-1]) if left else part.reshape(part.shape[0], -1)


def check_finite(w: Any, path: str) -> None:
    """UnsupportedInput for a weight that holds NaN or infinity: no grid spans it."""
    if not _is_finite(w):
        count = int(jnp.sum(~jnp.isfinite(w)))
        raise UnsupportedInput(
            f"expected finite weights, got {count} of {w.size} not finite in {path}; "
            "repair the checkpoint, or leave this leaf out with where="
        )


def check_concrete(w: Any, what: str) -> None:
    """check_finite for an array; nothing for a traced one, whose values nobody knows yet."""
    if not isinstance(w, jax.core.Tracer):
        check_finite(w, what)


@jax.jit
def _is_finite(w: jax.Array) -> jax.Array:
    return jnp.isfinite(w).all()
