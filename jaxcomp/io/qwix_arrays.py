"""QTensor <-> qwix.QArray(qvalue, scale, zero_point, qtype), the quantised array of Qwix.

    weight = (qvalue - zero_point) * scale,  scale of the weight's rank, one value per tile

Both ways keep every integer, scale and zero: int8, int4 (and int2, int3 in int4), NF4 and floats of
8 bits, per channel, per tensor or in tiles along the packed axes. Filling of a last short group is
refused, since tiles divide axes. Qwix itself is needed by to_qwix only. Its qwix.dequantize works
in the dtype of the scales: array.astype(float32) first, for our dense().
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.float8 import FP8_E4M3, FP8_E5M2
from jaxcomp.formats.format import Format
from jaxcomp.formats.layout import layout, merged_axis, to_matrix, unmerge
from jaxcomp.formats.normal_float import NF4, NORMAL_QUANTILES
from jaxcomp.formats.qtensor import QTensor, from_codes, read, unpacked

FLOATS = {FP8_E4M3.table: FP8_E4M3, FP8_E5M2.table: FP8_E5M2}
# What qwix calls integers of few bits, which it keeps as int4.
NARROW = {2: "int2", 3: "int3"}


def to_qwix(leaf: QTensor, make: Callable[..., Any] | None = None) -> Any:
    """A qwix.QArray of the same integers, scales and zeros; `make` stands in for qwix.QArray.

    UnsupportedInput for what Qwix does not have: other tables, ternary, groups that do not divide
    the last packed axis, real zeros.
    """
    format = leaf.format
    codes = unpacked(leaf.codes, format, merged_axis(leaf.packed))
    size = math.prod(size for _, size in leaf.packed)
    codes = unmerge(
        jax.lax.slice_in_dim(codes, 0, size, axis=merged_axis(leaf.packed)), leaf.packed
    )
    scales, zeros = read(leaf.scales, leaf.zeros, format)
    if isinstance(format.scale, str) and format.scale != "e8m0":
        scales = leaf.scales
    spread = _spread(leaf)
    middle = 1 << (format.bits - 1) if format.bits else 0
    if format.table is None and format.bits in (2, 3, 4, 8) and format.zero in (None, "uint8"):
        if zeros is None and format.offset != middle:
            raise _refused(leaf, f"offset {middle}")
        dtype = jnp.int8 if format.bits == 8 else jnp.int4
        qvalue = (codes - middle).astype(dtype)
        zeros = None if zeros is None else (zeros - middle).astype(dtype)
        qtype: Any = NARROW.get(format.bits, dtype)
    elif format.zero is None and format.offset == 0 and format.table in FLOATS:
        qtype = jnp.dtype(format.table)
        qvalue = jax.lax.bitcast_convert_type(codes.astype(jnp.uint8), qtype)
    elif format.zero is None and format.offset == 0 and format.table == NORMAL_QUANTILES:
        qvalue, qtype = codes.astype(jnp.uint4), "nf4"
    else:
        raise _refused(leaf, "int2, int3, int4, int8, nf4 or a float of 8 bits")
    make = _qarray() if make is None else make
    zeros = None if zeros is None else spread(zeros)
    return make(qvalue=qvalue, scale=spread(scales), zero_point=zeros, qtype=qtype)


def from_qwix(
    array: Any, axes: int | tuple[int, ...] | None = None, *, dtype: Any = None
) -> QTensor:
    """The QTensor of a qwix.QArray, or of anything with qvalue, scale, zero_point and qtype.

    axes: what products sum over; by default the axes along which several values share a scale,
    where some axis of the weight is none of them. dtype: of the dense weight; by default that of
    the scales, as in Qwix. UnsupportedInput where tiles are no groups along
    these, or the type is none of ours.
    """
    qvalue, scale, zero = array.qvalue, array.scale, array.zero_point
    if axes is None:
        axes = tuple(i for i, n in enumerate(qvalue.shape) if scale.shape[i] < n)
        if not axes or len(axes) == qvalue.ndim:
            raise UnsupportedInput(
                f"expected axes= for a scale {scale.shape} of a weight {qvalue.shape}, got none; "
                "name what products sum over, -2 for a kernel [in, out]"
            )
    zero = None if zero is None else jnp.broadcast_to(zero, scale.shape)
    place = layout(qvalue.shape, axes)
    format, codes = _codes(array)
    matrix, _ = to_matrix(codes, place.axes)
    parts = [None if x is None else _groups(x, place) for x in (scale, zero)]
    groups = parts[0].shape[1]
    group = None if scale.size == 1 else -1 if groups == 1 else place.size_in // groups
    format = format._replace(group=group, scale=scale.dtype.name)
    scales, zeros = parts
    if zeros is not None:
        middle = 1 << (format.bits - 1)
        zeros = (zeros.astype(jnp.int32) + middle).astype(jnp.uint8)
        format = format._replace(zero="uint8", offset=0)
    leaf = from_codes(matrix, scales, zeros, format, size=place.size_in, dtype=dtype or scale.dtype)
    return leaf.placed(place)


def _codes(array: Any) -> tuple[Format, jax.Array]:
    """(the format but for its groups, codes from 0 on)."""
    qvalue, qtype = array.qvalue, array.qtype
    name = qtype if isinstance(qtype, str) else jnp.dtype(qtype).name
    if name == "nf4":
        return NF4, qvalue.astype(jnp.int32)
    if name in FLOATS:
        codes = jax.lax.bitcast_convert_type(qvalue, jnp.uint8).astype(jnp.int32)
        return FLOATS[name], codes
    bits = {"int2": 2, "int3": 3, "int4": 4, "int8": 8}.get(name)
    if bits is None:
        raise UnsupportedInput(
            f"expected int2, int3, int4, int8, nf4 or {' or '.join(FLOATS)}, got {name}; quantize "
            "the dense weight instead"
        )
    middle = 1 << (bits - 1)
    return Format(bits, offset=middle), qvalue.astype(jnp.int32) + middle


def _groups(part: jax.Array, place: Any) -> jax.Array:
    """Scales of the weight's rank -> [out or 1, groups]."""
    sizes = [part.shape[axis] for axis in place.axes]
    whole = [place.shape[axis] for axis in place.axes]
    cut = next((i for i, (n, full) in enumerate(zip(sizes, whole, strict=True)) if n < full), 0)
    free = [part.shape[axis] for axis in place.free]
    full = [place.shape[axis] for axis in place.free]
    if any(n != 1 for n in sizes[cut + 1 :]) or (free != full and math.prod(free) != 1):
        raise UnsupportedInput(
            f"expected scales in groups along the axes {place.axes} of {place.shape}, got "
            f"{part.shape}; name other axes, or quantize the dense weight instead"
        )
    return to_matrix(part, place.axes)[0]


def _spread(leaf: QTensor) -> Callable[[jax.Array], jax.Array]:
    """Scales or zeros -> the weight's rank, their groups along the last packed axes."""
    left = leaf.scales.shape[merged_axis(leaf.packed)]
    if left > 1 and left * leaf.format.group != leaf.layout.size_in:
        raise _refused(leaf, "groups without filling")
    sizes = []
    for axis, size in leaf.packed:  # outer axes are cut first: groups run along the inner ones
        count = math.gcd(left, size) if left % size else size
        sizes.append((axis, count))
        left //= count
    cut = next((i for i, (_, n) in enumerate(sizes) if n < leaf.packed[i][1]), len(sizes))
    if left != 1 or any(n != 1 for _, n in sizes[cut + 1 :]):
        raise _refused(leaf, "groups that divide a packed axis")
    return lambda part: unmerge(part, tuple(sizes))


def _refused(leaf: QTensor, expected: str) -> UnsupportedInput:
    return UnsupportedInput(
        f"expected {expected} for a qwix.QArray, got {leaf.format} of {leaf.shape}; hand over "
        "leaf.dense() instead"
    )


def _qarray() -> Callable[..., Any]:
    try:
        import qwix
    except ImportError:
        raise UnsupportedInput(
            "expected qwix to be installed, got none; pip install qwix"
        ) from None
    return qwix.QArray
