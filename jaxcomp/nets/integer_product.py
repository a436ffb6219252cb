"""Exact convolution of int8 or int16 by int8 or int16, with int32 sums, on any device.

Integer sums do not depend on their order, so every device, batch size and flag agrees, as long as
the work really is sums of integer products: no Winograd or FFT, no floats. Two ways to do it:

    cpu      XLA's own int8 convolution, which runs as int8 dots. Best and median of 7 on two busy
             AVX-512 cores, GOP/s: 3x3, 192 -> 192 on 48x96: 720, 530; 5x5: 1290, 1190. Patches and
             a dot: 400, 200; 230, 200. Float32 convolution: 90
    others   patches unfolded, and one int8 dot: what a GPU library would choose for an integer
             convolution is not known to be exact

Where the kernel is 1x1 both are one dot. 16-bit numbers are two int8 digits in base 256, each pair
of digits one product; sums wrap modulo 2**32, so only the final sum has to fit 31 bits. Grouped
convolution is one convolution per group (XLA's own is 5 to 7 times slower here), and depthwise
convolution is no dot at all: one multiply-add per tap.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, Int8, Int32

from jaxcomp.base import JaxcompError
from jaxcomp.nets.fixed_point import TWO_DIGITS

# XLA's int8 dot on a CPU takes several times as long for 1 row as for 8.
ROWS = 8


def dot(
    x: Int[Array | np.ndarray, "*batch c"], w: Int[Array | np.ndarray, "k features"]
) -> Int32[Array, "*batch features"]:
    """sum_k x[..., k] w[k, f] modulo 2**32, with c = k."""
    if x.shape[-1] != w.shape[0]:
        raise JaxcompError(f"expected {w.shape[0]} channels, got {x.shape[-1]}")
    flat = x.reshape(-1, 1, 1, x.shape[-1])
    return _ungrouped(flat, w[None, None], None, ((0, 0), (0, 0))).reshape(
        *x.shape[:-1], w.shape[1]
    )


def convolve(
    x: Int[Array | np.ndarray, "*batch h w c"],
    w: Int[Array | np.ndarray, "kh kw k features"],
    *,
    groups: int = 1,
    mask: tuple[tuple[bool, ...], ...] | None = None,
    valid: bool = False,
) -> Int32[Array, "*batch m n features"]:
    """Stride-1 correlation modulo 2**32, with zeros outside the image or, valid, only inside it.

    w holds k = c / groups channels per group. mask says which taps are used; the weights of the
    others must be zero, and are skipped where that is faster.
    """
    *batch, rows, columns, channels = x.shape
    features = w.shape[3]
    if channels != groups * w.shape[2] or features % groups:
        raise JaxcompError(
            f"expected {groups} groups of {w.shape[2]} channels, and as many features in each; got "
            f"{channels} channels and {features} features"
        )
    x = x.reshape(-1, rows, columns, channels)
    padding = ((0, 0), (0, 0)) if valid else _padding(w)
    if groups == channels == features:
        y = _depthwise(x, w, mask, padding)
    elif groups == 1:
        y = _ungrouped(x, w, mask, padding)
    else:
        parts = zip(jnp.split(x, groups, axis=3), jnp.split(w, groups, axis=3), strict=True)
        y = jnp.concatenate([_ungrouped(*part, mask, padding) for part in parts], axis=3)
    return y.reshape(*batch, *y.shape[1:])


def digits(x: Int[Array | np.ndarray, "*shape"]) -> list[Int8[Array, "*shape"]]:
    """int8 is one digit, int16 two: x = 256 * high + low, low in -128..127; |x| <= 32639."""
    if x.dtype == jnp.int8:
        return [jnp.asarray(x)]
    if x.dtype != jnp.int16:
        raise JaxcompError(f"expected int8 or int16, got {x.dtype}; saturate it to 16 bits")
    wide = lax.convert_element_type(x, jnp.int32)
    wide = lax.clamp(np.int32(-TWO_DIGITS), wide, np.int32(TWO_DIGITS))
    high = (wide + 128) >> 8
    return [lax.convert_element_type(n, jnp.int8) for n in (high, wide - (high << 8))]


def _ungrouped(x, w, mask, padding):
    """All pairs of digits by one int8 convolution: digits of x in the batch, of w in features."""
    parts_x, parts_w = digits(x), digits(w)
    y = _convolve_int8(
        lax.concatenate(parts_x, 0) if len(parts_x) > 1 else x,
        lax.concatenate(parts_w, 3) if len(parts_w) > 1 else w,
        mask,
        padding,
    )
    total = 0
    for i, rows in enumerate(jnp.split(y, len(parts_x), axis=0)):
        for j, product in enumerate(jnp.split(rows, len(parts_w), axis=3)):
            total = total + (product << 8 * (len(parts_x) + len(parts_w) - 2 - i - j))
    return total


def _convolve_int8(x, w, mask, padding):
    if w.shape[:2] == (1, 1):
        return _dot_int8(x, w[0, 0])
    return lax.platform_dependent(
        x,
        w,
        cpu=lambda x, w: native(x, w, padding),
        default=lambda x, w: patches_and_dot(x, w, mask, padding),
    )


def native(
    x: Int8[Array | np.ndarray, "b h w c"], w: Int8[Array | np.ndarray, "kh kw c f"], padding=None
) -> Int32[Array, "b m n f"]:
    """XLA's integer convolution: int8 dots on a CPU. padding: by default, what keeps the size."""
    return lax.conv_general_dilated(
        x,
        w,
        (1, 1),
        padding or _padding(w),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=jnp.int32,
    )


def patches_and_dot(
    x: Int8[Array | np.ndarray, "b h w c"],
    w: Int8[Array | np.ndarray, "kh kw c f"],
    mask: tuple[tuple[bool, ...], ...] | None = None,
    padding: Any = None,
) -> Int32[Array, "b m n f"]:
    """The pixels under each used tap side by side, and one int8 dot."""
    taps = _taps(w, mask)
    patches = jnp.concatenate(list(_shifted(x, w, taps, padding or _padding(w))), axis=3)
    if mask is None:
        return _dot_int8(patches, w.reshape(-1, w.shape[3]))
    return _dot_int8(patches, jnp.concatenate([w[tap] for tap in taps]))


def _dot_int8(x, w):
    flat = x.reshape(-1, x.shape[-1])
    rows = flat.shape[0]
    if rows < ROWS:
        flat = jnp.pad(flat, ((0, ROWS - rows), (0, 0)))
    y = lax.dot_general(flat, w, (((1,), (0,)), ((), ())), preferred_element_type=jnp.int32)
    return y[:rows].reshape(*x.shape[:-1], w.shape[1])


def _depthwise(x, w, mask, padding):
    wide = w[:, :, 0].astype(jnp.int32)
    taps = _taps(w, mask)
    shifted = _shifted(x, w, taps, padding)
    return sum(s.astype(jnp.int32) * wide[tap] for s, tap in zip(shifted, taps, strict=True))


def _taps(w, mask):
    every = [(i, j) for i in range(w.shape[0]) for j in range(w.shape[1])]
    return [(i, j) for i, j in every if mask is None or mask[i][j]]


def _shifted(x, w, taps, padding):
    """For each tap, the image as that tap sees it."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0))) if np.any(padding) else x
    rows, columns = padded.shape[1] - w.shape[0] + 1, padded.shape[2] - w.shape[1] + 1
    for i, j in taps:
        start, end = (0, i, j, 0), (len(x), i + rows, j + columns, x.shape[3])
        yield lax.slice(padded, start, end)


def _padding(w: Array | np.ndarray) -> list[tuple[int, int]]:
    """As many zeros as keep the size, the odd one at the end."""
    return [((size - 1) // 2, size // 2) for size in w.shape[:2]]
