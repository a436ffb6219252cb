"""Grids of floats that are near everything: levels (integers) <-> values, and what is near enough.

    Absolute    x_hat = level * step, step = 2 bound
    Relative    x_hat = +- 2**(P octave) rho**k, rho = 2**(P / K), level = K octave + k, 0 <= k < K:
                neighbours are (1 + r) / (1 - r) apart, the most at which every x between them
                has |x - x_hat| <= r |x| for one of them. P octaves are taken together so
                that K >= P / log2 of that is nearly equal
    Bits        x_hat = the float with the bits level * step: for r so small that rho**k would
                have errors of its own

Relative levels cost half a bit less than Bits, since the bits of a float are only piecewise its
logarithm, and one bit less than setting low bits to zero, on average.

A decoder multiplies float64 once or twice, scales by a power of two and rounds to the dtype: IEEE
says what that is. The tables of rho**k are products too, of two factors in the file.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

MOST_LEVELS = 1 << 30  # K: products of 2**15 factors have relative errors of 4e-12
MOST_PERIOD = 16  # P
LARGEST_LEVEL = 1 << 52  # of Uniform: float64 holds all integers up to it
LARGEST_STEP = 2.0**1023


class Uniform(NamedTuple):
    """Multiples of step."""

    step: float

    def levels(self, x: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """The nearest, as floats; not finite, or above LARGEST_LEVEL, where there is none."""
        return np.rint(x / self.step)

    def values(self, level: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """What the levels stand for."""
        return level * self.step


class Logarithmic(NamedTuple):
    """Powers of rho, `count` of them in `period` octaves; giant is rho**stride(count)."""

    count: int
    period: int
    rho: float
    giant: float

    def levels(self, x: Float64[np.ndarray, " n"], r: float) -> Float64[np.ndarray, " n"]:
        """Levels of x > 0 whose values are between x (1 - r) and x (1 + r)."""
        fraction, exponent = np.frexp(x)
        octave, inside = np.divmod(exponent - 1, self.period)
        place = (np.log2(2 * fraction) + inside + math.log2(1 - r)) * (self.count / self.period)
        # In the middle of what is allowed where there is slack.
        slack = 1 - (math.log2(1 + r) - math.log2(1 - r)) ** -1 * self.period / self.count
        return np.ceil(place + slack / 2) + octave.astype(np.float64) * self.count

    def values(self, level: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """What the levels stand for."""
        octave, k = np.divmod(level, self.count)
        size = stride(self.count)
        low = _powers(self.rho, size)
        high = _powers(self.giant, -(-self.count // size))
        mantissa = high[k // size] * low[k % size]
        scale = np.clip(octave * self.period, -4000, 4000).astype(np.int32)
        return np.ldexp(mantissa, scale)


def stride(count: int) -> int:
    """About the root of count: rho**k is looked up as two factors."""
    return 1 << math.isqrt(count - 1).bit_length()


def _powers(base, count):
    """1, base, base**2, ...: each a product of the one before."""
    factors = np.full(count, base)
    factors[0] = 1
    return np.multiply.accumulate(factors)


def logarithmic(r: float) -> Logarithmic | None:
    """The grid for a relative bound r < 1, or None where it is too fine."""
    octaves = math.log1p(2 * r / (1 - r)) / math.log(2)
    periods = [p for p in range(1, MOST_PERIOD + 1) if p / octaves <= MOST_LEVELS]
    if not periods:
        return None
    period = min(periods, key=lambda p: math.ceil(p / octaves) / p)
    count = math.ceil(period / octaves)
    giant = 2.0 ** (period * stride(count) / count)
    return Logarithmic(count, period, 2.0 ** (period / count), giant)


def within_absolute(
    x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"], bound: float
) -> Bool[np.ndarray, " n"]:
    """Whether |x - y| <= bound, exactly: the rounding of the difference is known as well."""
    with np.errstate(invalid="ignore", over="ignore"):
        d = x - y
        b = x - d
        lost = (x - (d + b)) + (b - y)  # x - y = d + lost
        return (np.abs(d) < bound) | ((np.abs(d) == bound) & (lost * np.sign(d) <= 0)) | (x == y)


def within_relative(
    x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"], r: float
) -> Bool[np.ndarray, " n"]:
    """Whether |x - y| <= r |x|, for certain: what is nearer than a rounding to r |x| is refused."""
    with np.errstate(invalid="ignore", over="ignore"):
        return (np.abs(x - y) < np.nextafter(r * np.abs(x), 0)) | (x == y)
