"""The least bound at which a file is so many times smaller than its arrays.

A bisection on samples of the arrays, whose bits are estimated; then all is coded, and compared with
the estimate, until the file is as small as was asked and not much smaller. Bits of a value fall by
one where a bound doubles, so two or three rounds do.
"""

import functools
import math
from collections.abc import Callable
from io import BufferedIOBase
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.base import UnsupportedInput
from jaxcomp.coding.bounded_chunk import estimated_bits
from jaxcomp.io.error_bound import NAMES, Absolute, Bound, Relative, of_chunks

SAMPLE = 1 << 14  # values of an array, in whole rows
ROUNDS = 6  # of coding everything
NEAR = 0.97  # of the bytes that were allowed: near enough
LEAST_LOG2 = -60  # of a bound, as a share of the largest


class Trial(NamedTuple):
    """What coding everything took: bytes of arrays, of the file, and of the chunks with a bound."""

    original_nbytes: int
    nbytes: int
    bounded_nbytes: int


class Sink(BufferedIOBase):
    """A file that is only counted."""

    def write(self, data: Any) -> int:
        """Nothing is kept."""
        return len(data)


def find_bound(
    kind: Any,
    target_ratio: float | int,
    arrays: Callable[[], Any],
    trial: Callable[[Bound], Trial],
) -> Bound:
    """The bound of a kind (Absolute, Relative, ValueRange) at which a file reaches the ratio.

    arrays(): an iterator of those that the bound is for. trial(bound): code everything.
    Raises UnsupportedInput where no bound is enough.
    """
    kind = type(kind) if type(kind) in NAMES else kind
    if kind not in NAMES or not 0 < target_ratio < math.inf:
        raise UnsupportedInput(
            "expected bound=Absolute, Relative or ValueRange, and a target_ratio above 0, got "
            f"{kind!r:.60} and {target_ratio!r:.40}"
        )
    exact = trial(kind(0.0))
    allowed = exact.original_nbytes / target_ratio
    if exact.nbytes <= allowed:
        return kind(0.0)
    samples = [_sample(kind, x) for x in arrays() if x.size]
    largest = max((s.largest for s in samples), default=1.0) if kind is Absolute else 1.0
    largest = min(largest, 1 - 2.0**-10) if kind is Relative else largest
    curve = functools.cache(lambda k: _estimate(samples, largest * 2.0**k))
    best, scale, rest = None, 1.0, exact.nbytes - exact.bounded_nbytes
    for _ in range(ROUNDS):
        power = _solve(curve, (allowed * (1 + NEAR) / 2 - rest) / scale)
        bound = largest * 2.0**power
        found = trial(kind(bound))
        if found.nbytes <= allowed:
            best = bound if best is None else min(best, bound)
            if found.nbytes >= NEAR * allowed or power <= LEAST_LOG2:
                break
        elif power >= 0:
            break
        rest = found.nbytes - found.bounded_nbytes
        scale = max(1e-6, found.bounded_nbytes / max(_between(curve, power), 1.0))
    if best is None:
        raise UnsupportedInput(
            f"expected a target_ratio of at most {exact.original_nbytes / found.nbytes:.2f}, which "
            f"{kind.__name__}({bound:.3g}) reaches, got {target_ratio:g}; lower it, or select more"
        )
    return kind(best)


class _Sample(NamedTuple):
    values: np.ndarray
    unit: float  # of a bound
    relative: bool
    times: float  # what it stands for
    largest: float


def _sample(kind, x):
    unit, relative, _ = of_chunks(kind(0.5), x)
    rows = x.reshape(-1, x.shape[-1] if x.ndim else 1)
    some = max(1, SAMPLE // rows.shape[1])
    first = (len(rows) - min(some, len(rows))) // 2
    values = np.ascontiguousarray(rows[first : first + some])[:, : 4 * SAMPLE]
    finite = np.abs(values[np.isfinite(values)].astype(np.float64))
    unit = 1.0 if relative or kind is Absolute else 2 * unit
    return _Sample(values, unit, relative, x.size / values.size, float(finite.max(initial=0.0)))


def _estimate(samples, bound):
    """Bytes of all arrays."""
    bits = [
        s.times * estimated_bits(s.values, bound * s.unit, relative=s.relative) for s in samples
    ]
    return sum(bits) / 8


def _solve(curve, nbytes):
    """The least power of two, at most 0, at which the curve, which falls, is at most nbytes."""
    low, high = LEAST_LOG2, 0
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if curve(middle) <= nbytes else (middle + 1, high)
    if high == LEAST_LOG2 or curve(high) > nbytes or curve(high - 1) <= curve(high):
        return float(high)
    return high - (nbytes - curve(high)) / (curve(high - 1) - curve(high))


def _between(curve, power):
    """The curve at any power: a line from one whole number to the next."""
    low = math.floor(power)
    share = power - low
    return curve(low) * (1 - share) + (curve(low + 1) * share if share else 0)
