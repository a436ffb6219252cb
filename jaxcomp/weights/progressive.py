"""progressive: integers of 4 bits in groups, of integers of 8 bits per output.

    w ~ scale_0 * ((code - zero) * scale_1)
    scale_0 = max|w| / 119                a float per output
    scale_1 = round((max - min) / 15)     a byte per group, of w / scale_0
    zero = round(-min / scale_1)          4 bits per group

A step of a group is at most round(238 / 15) = 16, so (code - zero) * scale_1 is at most 8 from
w / scale_0 and is an int8: that is why 119. So W4A8 takes one float scale per output, and `to_int8`
is exact. A group takes 12 bits beside its codes; a float scale and a zero of one byte take 24.

Lin et al., QServe, arXiv:2405.04532, section 4.1 (QoQ). We differ: codes are chosen for the weight
itself, not for its int8, so it is rounded once; 0 is always within the range of a group; and in
place of 119 stands the number from 111 to 127 of least error under which nothing leaves int8.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Integer

from jaxcomp.base import Transform, UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.formats.format import Format
from jaxcomp.formats.integer import INT8, UINT4_G128
from jaxcomp.formats.layout import merged_axis, to_matrix
from jaxcomp.formats.qtensor import QTensor, from_codes, unpacked

INT8_TOP = 127
PROTECTED = 119  # int8 less half of the largest step: 127 - 8
FEWEST = 111  # what 119 may be rounded down to: 119 - 8
LEVELS = 15  # of 4 bits
# Integer scales of 8 bits under one float per output; zeros are the levels themselves, times 1.
SCALE = Format(8, name="uint8")
ZERO = Format(4, group=None, name="uint4")


def progressive(group: int = 128, *, pad: bool = False) -> Transform:
    """Data-free. group: values that share a second scale; pad: whether the last may be short.

    activation(progressive(), "int8") is W4A8.
    """
    if type(group) is not int or group < 2 or group % 2:
        raise UnsupportedInput(
            f"expected an even group of at least 2 values, got {group!r}; choose 128"
        )
    format = UINT4_G128._replace(group=group, pad=pad, scale=SCALE, zero=ZERO)

    def compress(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        if place.size_in % group and not pad:
            raise UnsupportedInput(
                f"expected a group that divides the packed axis of {place.size_in}, got {group}; "
                "choose progressive(group) that does, or progressive(group, pad=True), which fills "
                "up the last"
            )
        return _round(matrix, format, w.dtype).placed(place)

    return Transform(compress, None, "progressive")


@functools.partial(jax.jit, static_argnums=(1, 2))
def _round(w, format, dtype):
    w = w.astype(jnp.float32)
    outer = outer_scale(w, format)
    codes, scales, zeros = inner_codes(grids.in_groups(w / outer, format))
    groups = scales.shape[1]
    kept = from_codes(scales, outer.astype(SCALE.scale), None, SCALE, size=groups)
    one = jnp.ones((1, 1), ZERO.scale)
    kept_zeros = from_codes(zeros, one, None, ZERO, size=groups)
    codes = codes.reshape(len(w), -1)
    return from_codes(codes, kept, kept_zeros, format, size=w.shape[1], dtype=dtype)


def outer_scale(w: Float[Array, "out in"], format: Format) -> Float[Array, "out 1"]:
    """One scale per output, as it is stored: max|w| over a number from FEWEST to INT8_TOP.

    The one of least squared error under which the largest integer is in that range too: then a
    weight on the grid, whose largest integer is that number, comes back.
    """
    largest = jnp.abs(w).max(1, keepdims=True)
    grouped = grids.in_groups(w, format)

    def scale_of(top):
        scale = jnp.where(largest > 0, largest / top, 1.0)
        return scale.astype(SCALE.scale).astype(jnp.float32)

    def error(scale):
        codes, scales, zeros = inner_codes(grouped / scale[..., None])
        wide = (codes - zeros[..., None]) * scales[..., None]
        off = jnp.square(wide * scale[..., None] - grouped).sum((1, 2))
        top = jnp.abs(wide).max((1, 2))
        return jnp.where((top >= FEWEST) & (top <= INT8_TOP), off, jnp.inf)[:, None]

    def step(top, best):
        least, kept = best
        scale = scale_of(top)
        off = error(scale)
        return jnp.minimum(least, off), jnp.where(off < least, scale, kept)

    start = scale_of(PROTECTED)
    return lax.fori_loop(FEWEST, INT8_TOP + 1, step, (error(start), start))[1]


def inner_codes(u: Float[Array, "out groups group"]) -> tuple[Integer[Array, "..."], ...]:
    """(codes like u, scales [out, groups], zeros [out, groups]) of u = w / scale_0, all integers;
    (codes - zeros) * scales ~ u."""
    low, high = jnp.minimum(u.min(-1), 0), jnp.maximum(u.max(-1), 0)
    scales = jnp.maximum(jnp.round((high - low) / LEVELS), 1)
    zeros = jnp.clip(jnp.round(-low / scales), 0, LEVELS)
    codes = jnp.clip(jnp.round(u / scales[..., None]) + zeros[..., None], 0, LEVELS)
    return tuple(x.astype(jnp.int32) for x in (codes, scales, zeros))


@jax.jit
def to_int8(leaf: QTensor) -> QTensor:
    """The same weight as a QTensor of INT8, exactly, with integer operations alone.

    What a product with many rows is made of: one matrix of int8 with one scale per output.
    UnsupportedInput for a leaf that progressive did not make.
    """
    if not isinstance(leaf, QTensor) or (leaf.format.scale, leaf.format.zero) != (SCALE, ZERO):
        raise UnsupportedInput(
            f"expected a leaf of jc.weights.progressive, got {leaf.describe()}; compress with it"
        )
    axis, size = merged_axis(leaf.packed), leaf.layout.size_in
    codes = unpacked(leaf.codes, leaf.format, axis)
    scales = unpacked(leaf.scales.codes, SCALE, axis)
    place, groups = codes.ndim + axis, scales.shape[axis]
    zeros = unpacked(leaf.zeros.codes, leaf.zeros.format, axis)
    zeros = lax.slice_in_dim(zeros, 0, groups, axis=axis)
    split = (*codes.shape[:place], groups, -1, *codes.shape[place + 1 :])
    wide = codes.reshape(split) - jnp.expand_dims(zeros, place + 1)
    wide = (wide * jnp.expand_dims(scales, place + 1)).reshape(codes.shape)
    wide = lax.slice_in_dim(wide, 0, size, axis=axis).astype(jnp.int8)
    return QTensor(wide, leaf.scales.scales, None, _int8(size), leaf.dtype, leaf.packed)


def _int8(size: int) -> Format:
    return grids.with_tile(INT8._replace(scale=SCALE.scale), size)
