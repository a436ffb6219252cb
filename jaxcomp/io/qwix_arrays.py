"""QTensor <-> qwix.QArray(qvalue, scale, zero_point, qtype), the quantised array of Qwix.

    weight = (qvalue - zero_point) * scale,  scale of the weight's rank, one value per tile

Both ways keep every integer, scale and zero: int8, int4 (and int2, int3 in int4), NF4 and floats of
8 bits, per channel, per tensor or in tiles along the packed axes. Filling of a last short group is
refused, since tiles divide axes. Qwix itself is needed by to_qwix only. Its qwix.dequantize works
in the dtype of the scales: array.astype(float32) first, for our dense().
"""

import functools
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
FIELDS = ("qvalue", "scale", "zero_point", "qtype")


def to_qwix(leaf: Any, make: Callable[..., Any] | None = None) -> Any:
    """A qwix.QArray of a QTensor: its integers, scales, zeros; `make` stands in for qwix.QArray.

    UnsupportedInput for another leaf or an array, and for what Qwix does not have: other tables,
    ternary, groups that do not divide the last packed axis, real zeros.
    """
    if not isinstance(leaf, QTensor):
        raise UnsupportedInput(
            f"expected a QTensor, got {type(leaf).__name__}; make one of an array by "
            "jc.formats.quantize, or hand over leaf.dense() of another leaf"
        )
    qtype, dtype = _types(leaf)
    make = _qarray() if make is None else make
    qvalue, scale, zero_point = _arrays(leaf, dtype)
    return make(qvalue=qvalue, scale=scale, zero_point=zero_point, qtype=qtype)


def _types(leaf: QTensor) -> tuple[Any, Any]:
    """(what Qwix calls the values, the dtype it keeps them in)."""
    format = leaf.format
    if format.table is None and format.bits in (2, 3, 4, 8) and format.zero in (None, "uint8"):
        if format.zero is None and format.offset != _middle(format):
            raise _refused(leaf, f"offset {_middle(format)}")
        dtype = jnp.dtype(jnp.int8 if format.bits == 8 else jnp.int4)
        return NARROW.get(format.bits, dtype), dtype
    if format.zero is None and format.offset == 0 and format.table in FLOATS:
        return jnp.dtype(format.table), jnp.dtype(format.table)
    if format.zero is None and format.offset == 0 and format.table == NORMAL_QUANTILES:
        return "nf4", jnp.dtype(jnp.uint4)
    raise _refused(leaf, "int2, int3, int4, int8, nf4 or a float of 8 bits")


@functools.partial(jax.jit, static_argnums=1)
def _arrays(leaf: QTensor, dtype: Any) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """(qvalue, scale, zero_point)."""
    format, axis = leaf.format, merged_axis(leaf.packed)
    codes = unpacked(leaf.codes, format, axis)
    codes = jax.lax.slice_in_dim(codes, 0, leaf.layout.size_in, axis=codes.ndim + axis)
    codes = unmerge(codes, leaf.packed)
    scales, zeros = read(leaf.scales, leaf.zeros, format)
    if isinstance(format.scale, str) and format.scale != "e8m0":
        scales = leaf.scales
    spread = _spread(leaf)
    if format.table in FLOATS:
        codes = jax.lax.bitcast_convert_type(codes.astype(jnp.uint8), dtype)
    elif format.table is None:
        codes = codes - _middle(format)
    zeros = None if zeros is None else spread((zeros - _middle(format)).astype(dtype))
    return codes.astype(dtype), spread(scales), zeros


def _middle(format: Format) -> int:
    """The code of the integer 0 of Qwix."""
    return 1 << (format.bits - 1)


def from_qwix(
    array: Any, axes: int | tuple[int, ...] | None = None, *, dtype: Any = None
) -> QTensor:
    """The QTensor of a qwix.QArray, or of anything with qvalue, scale, zero_point and qtype.

    axes: what products sum over; by default the axes along which several values share a scale,
    where some axis of the weight is none of them. dtype: of the dense weight; by default that of
    the scales, as in Qwix. UnsupportedInput where tiles are no groups along
    these, or the type is none of ours.
    """
    if missing := [name for name in FIELDS if not hasattr(array, name)]:
        raise UnsupportedInput(
            f"expected a qwix.QArray, got {type(array).__name__} without {', '.join(missing)}; "
            "pass what qwix.quantize returned, or quantize an array by jc.formats.quantize"
        )
    qvalue, scale, zero = array.qvalue, array.scale, array.zero_point
    if axes is None:
        axes = tuple(i for i, n in enumerate(qvalue.shape) if scale.shape[i] < n)
        if not axes or len(axes) == qvalue.ndim:
            raise UnsupportedInput(
                f"expected axes= for a scale {scale.shape} of a weight {qvalue.shape}, got none; "
                "name what products sum over, -2 for a kernel [in, out]"
            )
    place = layout(qvalue.shape, axes)
    return _leaf(qvalue, scale, zero, _format(array), place, jnp.dtype(dtype or scale.dtype))


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _leaf(qvalue, scale, zero, format, place, dtype):
    zero = None if zero is None else jnp.broadcast_to(zero, scale.shape)
    if format.table in FLOATS:
        qvalue = jax.lax.bitcast_convert_type(qvalue, jnp.uint8)
    codes = qvalue.astype(jnp.int32) + format.offset
    matrix, _ = to_matrix(codes, place.axes)
    parts = [None if x is None else _groups(x, place) for x in (scale, zero)]
    groups = parts[0].shape[1]
    group = None if scale.size == 1 else -1 if groups == 1 else place.size_in // groups
    format = format._replace(group=group, scale=scale.dtype.name)
    scales, zeros = parts
    if zeros is not None:
        zeros = (zeros.astype(jnp.int32) + format.offset).astype(jnp.uint8)
        format = format._replace(zero="uint8", offset=0)
    leaf = from_codes(matrix, scales, zeros, format, size=place.size_in, dtype=dtype)
    return leaf.placed(place)


def _format(array: Any) -> Format:
    """The format but for its groups; its offset is what qvalue lacks to be a code."""
    name = array.qtype if isinstance(array.qtype, str) else jnp.dtype(array.qtype).name
    if name == "nf4":
        return NF4
    if name in FLOATS:
        return FLOATS[name]
    bits = {"int2": 2, "int3": 3, "int4": 4, "int8": 8}.get(name)
    if bits is None:
        raise UnsupportedInput(
            f"expected int2, int3, int4, int8, nf4 or {' or '.join(FLOATS)}, got {name}; quantize "
            "the dense weight instead"
        )
    return Format(bits, offset=1 << (bits - 1))


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
