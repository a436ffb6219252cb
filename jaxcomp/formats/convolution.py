"""conv: a convolution as a product, the patches of the signal times a packed kernel.

Patches are strided slices of the padded signal, one per position of the kernel, so values are
copied and never computed. Kernel positions and channels stand as they do in the packed weight.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.leaf import Leaf, check_floating

Padding = str | Sequence[Any]


def conv(
    x: jax.Array,
    w: Any,
    *,
    padding: Padding,
    window_strides: Sequence[int] | None = None,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
) -> jax.Array:
    """What jax.lax.conv_general_dilated(x, dense(w), ...) gives, in x's dtype, summed in float32.

    w    a leaf packed along all of its axes but the one of the outputs: (0, 1, 2) for a kernel
         HWIO, (1, 2, 3) for OIHW, which is what dimension_numbers=None means. Or an array.
    window_strides, rhs_dilation   1 along every axis where None
    padding                        "SAME", "VALID", "SAME_LOWER" or (low, high) for each axis

    UnsupportedInput for what is no product with one matrix: grouped and transposed convolutions
    (feature_group_count, batch_group_count, lhs_dilation), kernels packed along other axes; and for
    sizes that differ.
    """
    space = x.ndim - 2
    steps, spread, apart = (
        (1,) * space if given is None else tuple(given)
        for given in (window_strides, rhs_dilation, lhs_dilation)
    )
    if not isinstance(w, Leaf):
        return lax.conv_general_dilated(
            *(x, w, steps, padding, apart, spread),
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            batch_group_count=batch_group_count,
        )
    check_floating(x, "x")
    _check_product(apart, feature_group_count, batch_group_count)
    if w.ndim != x.ndim or not len(steps) == len(spread) == space:
        raise UnsupportedInput(
            f"expected x, w, strides and dilations of one number of dimensions, got x {x.shape}, w "
            f"{w.shape}, {steps} and {spread}; give each spatial axis one number"
        )
    numbers = lax.conv_dimension_numbers(x.shape, w.shape, dimension_numbers)
    out_axis, *others = numbers.rhs_spec
    in_axis, *positions = others
    if x.shape[numbers.lhs_spec[1]] != w.shape[in_axis]:
        raise UnsupportedInput(
            f"expected a signal of {w.shape[in_axis]} channels, as w {w.shape} has inputs, got "
            f"{x.shape[numbers.lhs_spec[1]]} of {x.shape}; check dimension_numbers"
        )
    summed = {i for i in others if w.shape[i] > 1}  # axes of size 1 are summed over or not
    if summed != {a + w.ndim for a in w.layout.axes if w.shape[a] > 1}:
        raise UnsupportedInput(
            f"expected w packed along {tuple(sorted(others))}, which the convolution sums over, "
            f"got {tuple(a + w.ndim for a in w.layout.axes)}; pack it so, or convolve with dense(w)"
        )
    sizes = [w.shape[i] for i in positions]
    pads = _pads(padding, [x.shape[i] for i in numbers.lhs_spec[2:]], sizes, steps, spread)
    found = patches(x, sizes, numbers, steps, pads, spread)
    *front, _, _ = found.shape
    axes = (*positions, in_axis)
    order = [axes.index(i) for i in sorted(axes)]
    rows = found.reshape(math.prod(front), *(w.shape[i] for i in axes))
    rows = rows.transpose(0, *(1 + i for i in order))
    out = w.matmul(rows.reshape(math.prod(front), math.prod(w.shape[i] for i in axes)))
    return laid_out(out.reshape(*front, w.shape[out_axis]), numbers)


def patches(
    x: jax.Array,
    sizes: Sequence[int],
    numbers: lax.ConvDimensionNumbers,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    rhs_dilation: Sequence[int],
) -> jax.Array:
    """[b, *counts, positions, c]: what each place of a kernel of spatial `sizes` sees of x."""
    batch_axis, channel_axis, *space = numbers.lhs_spec
    x = x.transpose(batch_axis, *space, channel_axis)  # [b, *space, c]
    borders = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), borders)
    counts = [
        max(0, (length - (size - 1) * gap - 1) // step + 1)  # none, of a signal shorter than it
        for length, size, gap, step in zip(
            x.shape[1:-1], sizes, rhs_dilation, window_strides, strict=True
        )
    ]
    found = []
    for at in itertools.product(*map(range, sizes)):
        start = [i * gap if n else 0 for i, gap, n in zip(at, rhs_dilation, counts, strict=True)]
        stop = [
            s + (n - 1) * step + 1 if n else 0
            for s, n, step in zip(start, counts, window_strides, strict=True)
        ]
        ends = [x.shape[0], *stop, x.shape[-1]]
        found.append(lax.slice(x, [0, *start, 0], ends, [1, *window_strides, 1]))
    return jnp.stack(found, -2)


def laid_out(out: jax.Array, numbers: lax.ConvDimensionNumbers) -> jax.Array:
    """[b, *counts, out] -> the axes that the convolution has."""
    where = [0] * out.ndim
    places = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    for now, then in enumerate(places):
        where[then] = now
    return out.transpose(where)


def _check_product(apart: tuple[int, ...], features: int, batches: int) -> None:
    """UnsupportedInput for convolutions that are several products, or one with zeros in between."""
    for name, groups in (("feature_group_count", features), ("batch_group_count", batches)):
        if groups != 1:
            raise UnsupportedInput(
                f"expected {name}=1, got {groups}: a grouped convolution is no product with one "
                "matrix; convolve with dense(w)"
            )
    if any(step != 1 for step in apart):
        raise UnsupportedInput(
            f"expected lhs_dilation of 1, got {apart}: a transposed convolution is no product with "
            "one matrix; convolve with dense(w)"
        )


def _pads(
    padding: Padding,
    lengths: Sequence[int],
    sizes: Sequence[int],
    steps: Sequence[int],
    spread: Sequence[int],
) -> Sequence[tuple[int, int]]:
    """(low, high) of each spatial axis."""
    if isinstance(padding, str):
        if padding.upper() not in ("SAME", "SAME_LOWER", "VALID"):
            raise UnsupportedInput(
                f'expected padding "SAME", "SAME_LOWER", "VALID" or pairs, got {padding!r}; choose '
                "one"
            )
        windows = [(size - 1) * gap + 1 for size, gap in zip(sizes, spread, strict=True)]
        return lax.padtype_to_pads(lengths, windows, steps, padding.upper())
    pairs = [tuple(pair) if isinstance(pair, Sequence) else (pair,) for pair in padding]
    if len(pairs) != len(lengths) or any(len(pair) != 2 for pair in pairs):
        raise UnsupportedInput(
            f"expected padding as (low, high) for each of {len(lengths)} spatial axes, got "
            f"{padding!r}; give each a pair"
        )
    return pairs
