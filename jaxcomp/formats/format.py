"""Number formats as constants: what a code means, and the plain maths of rounding onto a grid.

A weight is (level(code) - zero) * scale, with one scale (and zero) per group of values along the
packed axis. Everything here works on matrices w [out, in] whose rows are cut into groups.

    level(code) = code, or table[code]; integers of 8 bits are signed
    symmetric:  zero is the constant `offset`,   scale = max|w| / max|level|
    asymmetric: zero is stored per group,        scale = (max w - min w) / (2**bits - 1)
                                                 (0 lies in between: it is always on the grid)

A group that a format made comes back exactly if it uses the largest level (an asymmetric one: the
lowest and the highest), since a scale of few bits times a level is exact in float32.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.level_rules import Levels, check_levels, tables
from jaxcomp.kernels.packing import TRITS, least_tile

LONGEST_TILE = 128  # pairs of codes are half a tile apart; a TPU's registers hold 128 lanes
# A choice among levels of up to this many codes is a chain of comparisons, which XLA fuses; a
# gather is not fused, and no faster on a CPU below it.
CHAIN = 16
E8M0_BIAS = 127  # OCP Microscaling Formats 1.0, section 5.4.1: 2**(byte - 127)


class Format(NamedTuple):
    """A number format. Constants of it are in the files beside; change one with _replace.

    bits   of a code, 1 to 8, or packing.TRITS
    group  values that share a scale; -1: a whole row, one per output; None: the whole matrix
    table  the levels, ascending or not, 2**bits of them (a level may stand twice); the rule of one
           table (level_rules.py); a float dtype of 8 bits, whose bit patterns are the codes; or
           None: the codes themselves
    offset the level that means 0, of symmetric formats; 0 leaves integers no negative levels, and
           is for what has none, such as scales: such a format needs a name
    scale  how scales are stored: a dtype, "e8m0" (a power of two in a byte), or a Format
    zero   None: symmetric. "uint8": an integer. Another dtype, or a Format: any real number
    tile   codes per tile of packing (kernels/packing.py); 0: chosen when a weight is packed
    pad    whether a last group may be short: it is filled up, and the filling is counted
    name   what reports call the levels; "" for a name made of the bits
    """

    bits: int
    group: int | None = -1
    table: tuple[float, ...] | Levels | str | None = None
    offset: int = 0
    scale: "str | Format" = "bfloat16"
    zero: "str | Format | None" = None
    tile: int = 0
    pad: bool = False
    name: str = ""

    def __str__(self) -> str:
        return describe(self)


def check(format: Any) -> None:
    """UnsupportedInput for what is no Format, as a string, and for fields that make none; those of
    formats of scales and zeros too."""
    if not isinstance(format, Format):
        raise UnsupportedInput(
            f"expected a jc.formats.Format, got {format!r:.60}; pass jc.formats.INT4_G128, say"
        )

    def demand(good: bool, field: str, expected: str):
        if not good:
            raise UnsupportedInput(
                f"expected {expected}, got {field}={getattr(format, field)!r:.60}; start from a "
                "constant of jc.formats and change it with _replace"
            )

    bits, group, table, tile = format.bits, format.group, format.table, format.tile
    demand(type(bits) is int and 0 <= bits <= 8, "bits", "bits from 1 to 8, or TRITS")
    if isinstance(table, str):
        good = table.startswith("float8") and bits == 8 and _is_floating(table)
        demand(good, "table", "levels, or the name of a float8 dtype for 8 bits")
    elif isinstance(table, Levels):
        check_levels(table)
        good = bits == table.bits and len(table.of) == 1
        demand(good, "table", f"levels of one table of bits={bits}")
    elif table is not None or bits == TRITS:
        count = 3 if bits == TRITS else 1 << bits
        good = isinstance(table, tuple) and len(table) == count
        good = good and all(isinstance(x, (int, float)) and np.isfinite(x) for x in table)
        demand(good, "table", f"a tuple of {count} finite levels for bits={bits}")
    good = isinstance(format.offset, (int, float)) and bool(np.isfinite(format.offset))
    demand(good, "offset", "a finite number")
    demand(group is None or type(group) is int and (group == -1 or group > 0), "group", GROUPS)
    good = type(tile) is int and tile >= 0 and tile % least_tile(bits) == 0
    demand(good, "tile", f"a multiple of {least_tile(bits)}, or 0")
    demand(isinstance(format.name, str) and format.name.isprintable(), "name", "printable text")
    for field, others in (("scale", ("e8m0",)), ("zero", (None, "uint8"))):
        how = getattr(format, field)
        if isinstance(how, Format):
            check(how)
        else:
            words = ", ".join(map(str, others))
            demand(
                how in others or _is_floating(how), field, f"a floating dtype, {words} or a Format"
            )


GROUPS = "a group of at least 1, -1 for one scale per output, or None for one in all"


def _is_floating(name: object) -> bool:
    try:
        return isinstance(name, str) and jnp.issubdtype(jnp.dtype(name), jnp.floating)
    except TypeError:
        return False


def check_storage(how: Any) -> None:
    """UnsupportedInput for what stores no real numbers: neither a Format nor a floating dtype."""
    if isinstance(how, Format):
        return check(how)
    try:
        good = how is not None and jnp.issubdtype(jnp.dtype(how), jnp.floating)
    except TypeError:
        good = False
    if not good:
        raise UnsupportedInput(
            f"expected a jc.formats.Format or a floating dtype, got {how!r:.60}; pass "
            "jc.formats.INT8 or jnp.bfloat16, say"
        )


def describe(format: Format) -> str:
    """int4 g128, uint3 per channel, nf4 g64, ..."""
    if format.name:
        kind = format.name
    elif format.table is not None:
        kind = "trit" if format.bits == TRITS else f"table{format.bits}"
    else:
        kind = ("int" if format.zero is None else "uint") + str(format.bits)
    group = {-1: "per channel", None: "per tensor"}.get(format.group, f"g{format.group}")
    scale = format.scale if isinstance(format.scale, str) else f"({format.scale})"
    return f"{kind} {group}" + ("" if scale == "bfloat16" else f" scale {scale}")


def levels(format: Format) -> np.ndarray:
    """f32[number of codes]: the level of every code from 0 on, offset taken off.

    NaN and infinity for the codes that a float dtype has for them: no weight is rounded to those.
    """
    if format.table is not None:
        return np.asarray(table(format), np.float32) - format.offset
    return (np.arange(1 << format.bits) - (format.offset if format.zero is None else 0)).astype(
        np.float32
    )


def table(format: Format) -> tuple[float, ...] | None:
    """The levels as a tuple; None where they are the codes."""
    if isinstance(format.table, str):
        return _patterns(format.table)
    return tables(format.table)[0] if isinstance(format.table, Levels) else format.table


@functools.cache
def _patterns(dtype: str) -> tuple[float, ...]:
    values = np.arange(256, dtype=np.uint8).view(jnp.dtype(dtype)).astype(np.float32)
    return tuple(values.tolist())


def _finite(format: Format) -> np.ndarray:
    grid = levels(format)
    return grid[np.isfinite(grid)]


def top(format: Format) -> float:
    """The largest level: what a symmetric format scales max|w| to.

    Integers leave out their most negative level by that, so that the grid is symmetric; a one-sided
    format of two bits keeps -1, 0, 1.
    """
    return float(_finite(format).max())


def padded_size(size: int, format: Format) -> int:
    """Length of the packed axis, filled up to whole groups and tiles. UnsupportedInput if not."""
    group = format.group
    if group is None or group == -1:
        least = least_tile(format.bits)
        return -(-size // least) * least
    if group < 1 or group % least_tile(format.bits):
        raise UnsupportedInput(
            f"expected group a multiple of {least_tile(format.bits)} for {format.bits} bits, got "
            f"{group}; choose such a group, -1 for one scale per output, or None for one in all"
        )
    if size % group and not format.pad:
        raise UnsupportedInput(
            f"group={group} must divide the packed axis of {size}; choose a group that divides it,"
            " group=-1 for one scale per output, or format._replace(pad=True) to fill up the last"
        )
    return -(-size // group) * group


def with_tile(format: Format, size: int) -> Format:
    """The format with a tile for a packed axis of `size`: the whole group, or what divides it."""
    if format.tile:
        return format
    group = format.group
    if group is None or group == -1:
        group = padded_size(size, format)
    tile = group
    if tile > LONGEST_TILE and (format.bits != TRITS or tile % LONGEST_TILE == 0):
        tile = LONGEST_TILE
        while group % tile:
            tile //= 2
        tile = max(tile, least_tile(format.bits))
    return format._replace(tile=tile)


def in_groups(w: Float[Array, "out in"], format: Format) -> Float[Array, "rows groups group"]:
    """Rows cut into groups, filled up with zeros; one row and one group for a whole matrix.

    UnsupportedInput for a format that is none, or would lose all negative values.
    """
    check(format)
    if format.zero is None and format.table is None and not format.offset and not format.name:
        raise UnsupportedInput(
            f"expected an offset for symmetric integers, got offset=0; it would make negative "
            f"values 0: use offset={1 << (format.bits - 1)}, or zero='uint8'"
        )
    size = padded_size(w.shape[1], format)
    if format.group is None:
        return w.reshape(1, 1, -1)
    w = jnp.pad(w, ((0, 0), (0, size - w.shape[1])))
    return w.reshape(w.shape[0], -1, size if format.group == -1 else format.group)


def fit(
    w: Float[Array, "*groups group"], format: Format, *, shrink: float | jax.Array = 1.0
) -> tuple[Float[Array, "*groups"], Float[Array, "*groups"] | None]:
    """(scales, zeros or None) whose grid spans each group, its range multiplied by `shrink`.

    A group of zeros has scale 1, or 0 where scales are on a grid of their own, which it must not
    stretch. With "e8m0" a scale is 2**(floor(log2 max|w|) - floor(log2 top)), the rule of OCP
    Microscaling Formats 1.0, section 6.3: the largest values may be clipped.
    """
    none = 0.0 if isinstance(format.scale, Format) else 1.0
    if format.zero is None:
        largest = jnp.abs(w).max(-1) * shrink
        if format.scale == "e8m0":
            exponent = jnp.frexp(largest)[1] - int(np.frexp(top(format))[1])
            scale = power_of_two(jnp.clip(exponent, 1 - E8M0_BIAS, E8M0_BIAS) + E8M0_BIAS)
        else:
            scale = largest / top(format)
        return jnp.where(scale > 0, scale, none), None
    grid = _finite(format)
    low = jnp.minimum(w.min(-1), 0) * shrink
    high = jnp.maximum(w.max(-1), 0) * shrink
    scale = (high - low) / float(np.ptp(grid))
    zero = -low / jnp.where(scale > 0, scale, 1.0) + float(grid.min())
    return jnp.where(scale > 0, scale, none), jnp.round(zero) if format.zero == "uint8" else zero


def power_of_two(byte: Integer[Array, "*shape"]) -> Float[Array, "*shape"]:
    """2**(byte - 127), made of bits and so exact; NaN for 255 (OCP Microscaling, section 5.4.1).

    2**-127 is not a normal float32, and comes out as 0: nothing here writes it.
    """
    byte = byte.astype(jnp.uint32)
    value = jax.lax.bitcast_convert_type(byte << 23, jnp.float32)
    return jnp.where(byte == 255, jnp.nan, value)


def nearest(u: Float[Array, "*shape"], format: Format) -> Integer[Array, "*shape"]:
    """The code (as i32, from 0 on) whose level is nearest to u = w / scale (+ zero).

    A tie goes to the even code, as IEEE 754 rounds. Values beyond the grid go to its ends.
    """
    if isinstance(format.table, str):
        most = top(format)
        cast = jnp.clip(u + format.offset, -most, most).astype(format.table)
        return jax.lax.bitcast_convert_type(cast, jnp.uint8).astype(jnp.int32)
    grid = levels(format)
    if format.table is None:
        low = -float(grid.min())
        # The most negative level of a symmetric grid has no positive twin; it is used only where a
        # value lies beyond what the scale spans.
        return jnp.clip(jnp.round(u + low), 0, len(grid) - 1).astype(jnp.int32)
    grid, order = np.unique(grid, return_index=True)  # ascending, and each level's first code
    middles = (grid[1:] + grid[:-1]) / 2
    if len(grid) > CHAIN:
        return jnp.asarray(order, jnp.int32)[jnp.searchsorted(jnp.asarray(middles), u)]
    code = jnp.full(u.shape, order[0], jnp.int32)
    for i, middle in enumerate(middles):
        above = u >= middle if order[i + 1] % 2 == 0 else u > middle
        code += jnp.where(above, int(order[i + 1] - order[i]), 0)
    return code


def value(codes: Integer[Array, "*shape"], format: Format) -> Float[Array, "*shape"]:
    """Level of each code (from 0 on) as float32, offset taken off."""
    grid = levels(format)
    if format.table is None:
        return codes.astype(jnp.float32) + float(grid[0])
    if len(grid) > CHAIN:
        return jnp.asarray(grid)[codes]
    out = jnp.full(codes.shape, grid[0])
    for code, level in enumerate(grid[1:], 1):
        out = jnp.where(codes == code, level, out)
    return out


def round_to(
    w: Float[Array, "*groups group"],
    scale: Float[Array, "*groups"],
    zero: Float[Array, "*groups"] | None,
    format: Format,
) -> tuple[Integer[Array, "*groups group"], Float[Array, "*groups group"]]:
    """(codes from 0 on, the values they stand for) of w on the grid of each group."""
    scale = scale[..., None]
    shift = 0.0 if zero is None else zero[..., None]
    codes = nearest(w / jnp.where(scale == 0, 1.0, scale) + shift, format)
    return codes, (value(codes, format) - shift) * scale
