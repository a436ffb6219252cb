"""Smooth fields from coarse to fine: each value predicted by its decoded neighbours on both sides.

Strides fall by powers of two. At each, and along one axis after another, values halfway between two
known ones are predicted by the cubic through the four nearest, by the parabola through three at an
edge, and the difference is rounded to a multiple of a step:

    k = rint((x - p) / step_s),    y = p + k step_s

(the interpolation of SZ3: Zhao et al., "Optimizing error-bounded lossy compression for scientific
data by dynamic spline interpolation", ICDE 2021). Unlike differences of levels it has no noise of
rounding to carry from value to value: where a field is smooth within the bound, every k is 0.

Where the step is whole so is every y: p is rounded to an integer. That is for levels of a grid that
is finer than the step, whose values need not be smooth themselves (error_bound_grid.py).

step_s is finer at coarse strides, step / min(fineness**log2(stride), FINEST), since what is decoded
there is what all that follows is predicted from. NumPy's float64, one rounding for each operation
and no sums of many: the same values everywhere.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float64, Int64

FINEST = 4.0
Shape = tuple[int, int, int]


def encode(
    x: Float64[np.ndarray, "n height width"],
    first: float,
    step: float,
    fineness: float,
    *,
    whole: bool = False,
) -> tuple[Int64[np.ndarray, " size"], Float64[np.ndarray, "n height width"]]:
    """(k in the order of decoding, y); k is 0 where x is not finite or too far away."""
    y, found = np.empty_like(x), []

    def take(place, predicted, step):
        k = np.rint((x[place] - predicted) / step)
        k = np.where(np.abs(k) < 2.0**52, k, 0)  # not NaN either
        found.append(k.astype(np.int64).reshape(-1))
        return k

    _walk(y, first, step, fineness, whole, take)
    return np.concatenate(found), y


def decode(
    k: Int64[np.ndarray, " size"],
    shape: Shape,
    first: float,
    step: float,
    fineness: float,
    *,
    whole: bool = False,
) -> Float64[np.ndarray, "n height width"]:
    """y."""
    y, at = np.empty(shape), 0

    def take(place, predicted, step):
        nonlocal at
        at += predicted.size
        return k[at - predicted.size : at].reshape(predicted.shape)

    _walk(y, first, step, fineness, whole, take)
    return y


def _walk(
    y: np.ndarray, first: float, step: float, fineness: float, whole: bool, take: Callable
) -> None:
    """Fill y; take(place, predicted, step) gives the k of each pass."""
    place = (slice(0, 1),) * 3
    y[place] = first + take(place, np.full((1, 1, 1), first), step) * step
    for place, axis, stride, known in _passes(y.shape):
        count = len(range(stride, y.shape[axis], 2 * stride))
        predicted = np.moveaxis(_between(np.moveaxis(y[known], axis, 0), count), 0, axis)
        finer = step / min(fineness ** (stride.bit_length() - 1), FINEST)
        if whole:
            predicted, finer = np.rint(predicted), float(max(1, np.floor(finer)))
        y[place] = predicted + take(place, predicted, finer) * finer


def _passes(shape: Shape) -> Iterator[tuple]:
    """(what is predicted, along which axis, its stride, what is known in these lines)."""
    stride = 1 << (max(shape) - 1).bit_length() >> 1
    while stride:
        for axis in range(3):
            if shape[axis] > stride:
                others = [stride if i < axis else 2 * stride for i in range(3)]
                place = [slice(0, None, step) for step in others]
                known = [*place]
                known[axis] = slice(0, None, 2 * stride)
                place[axis] = slice(stride, None, 2 * stride)
                yield tuple(place), axis, stride, tuple(known)
        stride >>= 1


def _between(known: np.ndarray, count: int) -> np.ndarray:
    """Values halfway from known[j] to known[j + 1], for j < count; the last may be beyond them."""
    m = len(known)
    out = np.empty((count, *known.shape[1:]))
    inner = m - 1  # those with a neighbour on both sides
    out[:inner] = (known[:-1] + known[1:]) * 0.5
    if m > 2:
        left, right = known[:-1], known[1:]
        out[0] = (3 * left[0] + 6 * right[0] - known[2]) * 0.125
        out[inner - 1] = (3 * right[-1] + 6 * left[-1] - known[-3]) * 0.125
    if m > 3:
        near, far = known[1:-2] + known[2:-1], known[:-3] + known[3:]
        out[1 : inner - 1] = (9 * near - far) * 0.0625
    if count > inner:
        out[inner] = known[-1] if m < 2 else known[-1] * 1.5 - known[-2] * 0.5
    return out
