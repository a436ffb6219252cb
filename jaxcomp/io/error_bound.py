"""Floats in fewer bytes, with an error that no value exceeds.

    save_tensors("fields.jxc", tree, bound=Absolute(1e-3))       |x - x_hat| <= 1e-3
    save_tensors("moments.jxc", tree, bound=Relative(1e-2))      |x - x_hat| <= 1e-2 |x|
    save_tensors("weights.jxc", tree, bound=ValueRange(1e-3))    |x - x_hat| <= 1e-3 (max - min)
    save_tensors("small.jxc", tree, bound=ValueRange, target_ratio=8)    the bound is found

of each value of float16, bfloat16, float32 and float64; max and min are those of the array's
finite values. NaN and infinities stay as they are, zeros too under a relative bound, and so does
what is no float, is part of a compressed leaf or not selected. coding/bounded_chunk.py says how;
the writer decodes what it writes, and the file says what the largest error is (`bounds_of`).

A bound is for each save: saving again what was loaded may move a value again, by no more.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.coding.bounded_chunk import FLOATS, encode_bounded
from jaxcomp.io.tensor_rows import CHUNK_NBYTES

LOSSY = "lossy"  # of the index: [[name, kind, bound, error], ...]


class Absolute(NamedTuple):
    """|x - x_hat| <= bound."""

    bound: float


class Relative(NamedTuple):
    """|x - x_hat| <= bound |x|, for a bound below 1."""

    bound: float


class ValueRange(NamedTuple):
    """|x - x_hat| <= bound (max - min), of each array."""

    bound: float


Bound = Absolute | Relative | ValueRange
KINDS = {"absolute": Absolute, "relative": Relative, "range": ValueRange}
NAMES = {kind: name for name, kind in KINDS.items()}


class Achieved(NamedTuple):
    """What was promised of an array, and its largest error, in the terms of the bound."""

    bound: Bound
    error: float


def is_float(x: Any) -> bool:
    """Whether a bound can apply: to arrays of float16, bfloat16, float32 and float64."""
    return hasattr(x, "dtype") and getattr(x.dtype, "name", None) in FLOATS


def check_bound(bound: Any) -> None:
    """UnsupportedInput for what is no bound."""
    if type(bound) not in NAMES:
        raise UnsupportedInput(
            f"expected a bound among Absolute(e), Relative(r) and ValueRange(r), got {bound!r:.60}"
        )
    most = 1 if type(bound) is Relative else math.inf
    if not isinstance(bound.bound, (int, float)) or not 0 <= bound.bound < most:
        raise UnsupportedInput(
            f"expected {type(bound).__name__} of 0 to below {most}, got {bound.bound!r:.60}"
        )


class Bounded:
    """The encoders of the arrays of one file, and what they achieved."""

    def __init__(self, bound: Any):
        check_bound(bound)
        self._bound = bound
        self._errors: dict[str, tuple[float, list[float]]] = {}
        self.coded_nbytes: list[int] = []  # of each chunk

    def encoder(self, name: str, x: np.ndarray) -> Callable[..., bytes]:
        """For TensorWriter.add: chunks of x within the bound."""
        bound, relative, unit = of_chunks(self._bound, x)
        errors: list[float] = []
        self._errors[name] = unit, errors

        def encode(part, *, base=None):
            coded = encode_bounded(part, bound, relative=relative, base=base)
            errors.append(coded.error)
            self.coded_nbytes.append(len(coded.data))
            return coded.data

        return encode

    def index(self) -> dict[str, Any]:
        """What the index of the file says of it."""
        kind = NAMES[type(self._bound)]
        rows = [
            [name, kind, float(self._bound.bound), max(errors, default=0.0) / unit]
            for name, (unit, errors) in self._errors.items()
        ]
        return {LOSSY: rows}


def of_chunks(bound: Bound, x: np.ndarray) -> tuple[float, bool, float]:
    """(bound, whether it is relative, what an error is divided by) for chunks of x."""
    if type(bound) is ValueRange:
        least, unit = in_range(x, float(bound.bound))
        return least, False, unit
    return float(bound.bound), type(bound) is Relative, 1.0


def in_range(x: np.ndarray, bound: float) -> tuple[float, float]:
    """(bound (max - min), max - min) of what is finite, rounded down; (0, 1) where all is equal."""
    flat, low, high = x.reshape(-1), math.inf, -math.inf
    step = CHUNK_NBYTES // x.dtype.itemsize
    for i in range(0, flat.size, step):
        part = flat[i : i + step].astype(np.float64)
        part = part[np.isfinite(part)]
        if part.size:
            low, high = min(low, float(part.min())), max(high, float(part.max()))
    if not low < high:
        return 0.0, 1.0
    unit = min(math.nextafter(high - low, 0), np.finfo(np.float64).max)
    return math.nextafter(min(bound * unit, np.finfo(np.float64).max), 0), unit


def bounds_of(tensors: Any) -> dict[str, Achieved]:
    """{name: Achieved} of an open file (open_tensors), as it says; empty where nothing was lost."""
    rows = tensors.index.get(LOSSY, [])
    try:
        found = {name: Achieved(KINDS[kind](bound), error) for name, kind, bound, error in rows}
        numbers = [x for achieved in found.values() for x in (*achieved.bound, achieved.error)]
        good = all(type(x) is float and 0 <= x < math.inf for x in numbers)
        good = good and not set(found) - set(tensors.names)
    except (TypeError, ValueError, KeyError):
        good = False
    if not good:
        raise CorruptStream("expected the bounds of arrays in the index, got others; damaged?")
    return found
