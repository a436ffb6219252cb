"""Levels: tables of levels made from a few numbers, which are all that a leaf and a file keep.

    power   sgn(q) (|q| / top)^(1 / a) for each exponent a; q the signed integers, the lowest first
    float   a sign, an exponent and m bits of mantissa for each m: the levels of the bit patterns

They are made in float64 and used in float32, of which no rounding of a power function is seen: a
file means the same levels wherever it is read.
"""

import functools
from typing import NamedTuple

from jaxcomp.base import UnsupportedInput

Tables = tuple[tuple[float, ...], ...]
MOST_TABLES = 256  # choices among them are bytes


class Levels(NamedTuple):
    """kind: "power" or "float"; bits: of a code, 2 to 8; of: the exponents, or widths of mantissas.

    The kind is a field, so that rules of two kinds are never equal.
    """

    kind: str
    bits: int
    of: tuple[float, ...]


def tables(known: Tables | Levels) -> Tables:
    """A table for each number of a rule, 2**bits levels long; tables as they stand.

    UnsupportedInput for a rule that is none.
    """
    if not isinstance(known, Levels):
        return known
    check_levels(known)
    return _made(known)


def check_levels(rule: Levels) -> None:
    """UnsupportedInput for a rule that is none: one of a file may say anything."""
    kind, bits, of = rule
    good = kind in ("power", "float") and type(bits) is int and 2 <= bits <= 8
    good = good and isinstance(of, tuple) and 0 < len(of) <= MOST_TABLES
    if good and kind == "power":
        good = all(type(a) in (int, float) and 0.1 <= a <= 1 for a in of)
    elif good:
        good = all(type(m) is int and 0 <= m <= bits - 2 for m in of)
    if not good:
        raise UnsupportedInput(
            f"expected levels of 2 to 8 bits, powers of exponents from 0.1 to 1 or floats of fewer "
            f"mantissa bits than bits - 1, got {tuple(rule)!r:.80}; change these"
        )


@functools.lru_cache
def _made(rule: Levels) -> Tables:
    if rule.kind == "power":
        return tuple(power_levels(rule.bits, a) for a in rule.of)
    return tuple(float_levels(rule.bits - 1 - int(m), int(m)) for m in rule.of)


def power_levels(bits: int, exponent: float) -> tuple[float, ...]:
    """Powers of the signed integers, divided by that of the largest: at most 1."""
    top = (1 << bits - 1) - 1
    integers = range(-top - 1, top + 1)
    return tuple((abs(q) / top) ** (1 / exponent) * (-1 if q < 0 else 1) for q in integers)


def float_levels(exponent: int, mantissa: int) -> tuple[float, ...]:
    """The levels of a sign bit, exponent bits and mantissa bits, in the order of their patterns.

    The least exponent has no leading one; no pattern is an infinity or NaN. E2M1 are 0, 0.5, 1,
    1.5, 2, 3, 4, 6 and their negatives.
    """
    steps = 1 << mantissa
    magnitudes = [
        2.0 * m / steps if e == 0 else (1 + m / steps) * 2.0**e
        for e in range(1 << exponent)
        for m in range(steps)
    ]
    half = [x / 2 for x in magnitudes]
    return (*half, *(-x for x in half))
