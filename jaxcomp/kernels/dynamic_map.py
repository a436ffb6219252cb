"""Dynamic maps: few levels over many decades, dense near 1, with an exact zero.

    10^(i - D + 1) * midpoints of linspace(0.1, 1, 2^e + 1),   i = 0 ... D - 1,   and 0 and 1

e = i with both signs (there is no -1, though), or i + 1 without: each decade has twice the levels
of the one below. D = 7 makes 256 levels, from 5.5e-7 signed and 3.25e-7 unsigned; D = 3 makes 16
with signs. Dettmers et al., 8-bit Optimizers via Block-wise Quantization, ICLR 2022, section 1.3.
Codes count the levels in order. `LINEAR4` is the other map that second moments take: (c + 1) / 16,
without a zero (Li, Chen, Zhu, Memory Efficient Optimizers with 4-bit States, NeurIPS 2023, 4.1).

Without signs, zero stands for zero alone: what is above it is rounded to the lowest level, not to
zero. A second moment that became 0 would let its entry take steps of 1 / sqrt(1 - b2) times their
size (section 4.1 of the latter). We differ from the former in that.

Kernels look nothing up. A magnitude's number q (0 for zero, then 1, 2, ... signed, 2, 3, ...
unsigned) is 2^e + j for the midpoint j of its decade, an integer times a constant of the decade,

    (2^(e+1) + 9 (2 j + 1)) * 10^(i - D) / 2^(e+1)

so the float that a code stands for is rounded once, alike on every device; and the midpoint nearest
to x is the one whose interval holds x, but where a decade begins: there the limit is halfway to the
next midpoint below, 0.2 of an interval late.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float32, Int32, Integer


class Map(NamedTuple):
    """bits of a code; whether levels have a sign; decades D, or 0 for `linear`."""

    bits: int
    signed: bool
    decades: int


SIGNED = Map(8, True, 7)
UNSIGNED = Map(8, False, 7)
SIGNED4 = Map(4, True, 3)
LINEAR4 = Map(4, False, 0)

MANTISSA = 23  # bits of a float32's
EXPONENT = 0xFF << MANTISSA
LATE = 0.2  # of an interval: where the first of a decade starts, halfway from the midpoint below


def levels(map: Map) -> Float32[np.ndarray, " levels"]:
    """What the codes 0, 1, 2, ... stand for, in order."""
    if not map.decades:
        return np.arange(1, (1 << map.bits) + 1, dtype=np.float32) * np.float32(2.0**-map.bits)
    q = np.arange(_lowest(map), _top(map))
    e = np.floor(np.log2(q)).astype(int)
    factor = (5.0**e).astype(np.float32) * np.float32(_unit(map))
    positive = [0, *((18 * q - (16 << e) + 9).astype(np.float32) * factor), 1]
    negative = -np.array(positive[-2:0:-1]) if map.signed else []
    return np.array([*negative, *positive], np.float32)


def decode(codes: Integer[Array, "*shape"], map: Map) -> Float32[Array, "*shape"]:
    """The levels of codes. Elementwise, with no table: for kernels too."""
    number = codes.astype(jnp.int32)
    if not map.decades:
        return (number.astype(jnp.float32) + 1) * np.float32(2.0**-map.bits)
    number -= _zero(map)
    q = jnp.abs(number).astype(jnp.float32)
    bits = lax.bitcast_convert_type(q, jnp.int32)
    first = lax.bitcast_convert_type(bits & EXPONENT, jnp.float32)  # 2^e
    bits += 1 << MANTISSA  # now the exponent's low bits are those of e
    power = None
    for i, base in enumerate(_squares(5, map)):
        part = jnp.where(bits & (1 << MANTISSA + i) != 0, np.float32(base), np.float32(1))
        power = part if power is None else power * part
    x = (18 * q - (16 * first - 9)) * (power * np.float32(_unit(map)))
    x = jnp.where(q >= _top(map), np.float32(1), jnp.where(q < _lowest(map), np.float32(0), x))
    return jnp.where(number < 0, -x, x) if map.signed else x


def look_up(
    codes: Integer[Array, "*shape"], map: Map, first: int | None = None
) -> Float32[Array, "*shape"]:
    """What decode returns, from a table: faster on CPUs, where loads are cheap.

    first: of bytes with several codes, the lowest bit of those that are meant.
    """
    table = levels(map)
    if first is not None:
        table = table[np.arange(256) >> first & (1 << map.bits) - 1]
    return jnp.asarray(table).at[codes.astype(jnp.int32)].get(mode="promise_in_bounds")


def encode(x: Float32[Array, "*shape"], map: Map) -> Int32[Array, "*shape"]:
    """The codes of the levels nearest to x, which is within [-1, 1], or [0, 1] without signs.

    As int32: a kernel chooses among them before it makes them bytes. Where x is as near to two
    levels, but for 6e-7 of x, it is either.
    """
    if not map.decades:
        top = (1 << map.bits) - 1
        return jnp.clip(jnp.ceil(x * (top + 1) - 0.5) - 1, 0, top).astype(jnp.int32)
    size = jnp.abs(x) if map.signed else x
    place = functools.reduce(lax.min, (_bits(size * a + b) for a, b in _lines(map)))
    a, b = _last_line(map)
    place = lax.max(place, _bits(x * a + b))
    if not map.signed:  # what is not zero is not rounded to it
        least = np.float32(_lowest(map) + LATE).view(np.int32)
        place = jnp.where(x > 0, lax.max(place, least), place)
    first = lax.bitcast_convert_type(place & EXPONENT, jnp.float32)
    place = lax.bitcast_convert_type(place, jnp.float32)
    q = _bits(place + np.float32((1 << MANTISSA) - 0.5))  # its floor, in the mantissa
    q = jnp.where(place - first < np.float32(LATE), q - 1, q)
    if map.signed:
        q = jnp.where(x < 0, -q, q)
    return q + _zero(map) & (1 << map.bits) - 1


def _lines(map: Map) -> list[tuple[np.float32, np.float32]]:
    """a, b of a line for each decade: a x + b is 2^e + j, and what of interval j lies below x.

    Intervals are five times as long as in the decade below, so slopes fall, and lines of neighbours
    meet where their decades do: the least of all lines is that of the decade which x is in. With
    signs the first is steeper, and ends where the second level begins.
    """
    lines = []
    for i in range(map.decades):
        first = _lowest(map) * 2.0**i
        lines.append((first * 10.0 ** (map.decades - i) / 9, first * 8 / 9))
    if map.signed:  # the lowest level starts halfway to zero; at 1 the floor below would be a tie
        half, least = float(levels(map)[_zero(map) + 1]) / 2, 1.02
        lines[0] = (1 + LATE - least) / half, least
    return [(np.float32(a), np.float32(b)) for a, b in lines]


def _last_line(map: Map) -> tuple[np.float32, np.float32]:
    """a, b of the line that leads to level 1: halfway to it from below, it is LATE above _top."""
    step = 1.8 / _top(map)  # of the last decade
    a, there = 2.2 / step, 1 - step / 4
    return np.float32(a), np.float32(_top(map) + LATE - a * there)


def _bits(x: Float32[Array, "*shape"]) -> Int32[Array, "*shape"]:
    """Magnitudes are in the order of their bits, of which a minimum is one instruction."""
    return lax.bitcast_convert_type(x, jnp.int32)


def _lowest(map: Map) -> int:
    """The number of the lowest level above zero."""
    return 1 if map.signed else 2


def _top(map: Map) -> int:
    """The number of level 1."""
    return _lowest(map) << map.decades


def _zero(map: Map) -> int:
    """The code of number 0."""
    return _top(map) - 1 if map.signed else -1


def _unit(map: Map) -> float:
    """What 5^e times an integer counts in: 10^(i - D) / (2^(e+1) 5^e)."""
    return 10.0**-map.decades / (2 if map.signed else 20)


def _squares(base: int, map: Map) -> list[int]:
    """base^1, base^2, base^4, ...: products of some of them are all powers that are needed."""
    return [base ** (1 << i) for i in range(map.decades.bit_length())]
