"""Number formats as constants: what a code means, and the plain maths of rounding onto a grid.

A weight is (level(code) - zero) * scale, with one scale (and zero) per group of values along the
packed axis. Everything here works on matrices w [out, in] whose rows are cut into groups.

    level(code) = code, or table[code]; integers of 8 bits are signed
    symmetric:  zero is the constant `offset`,   scale = max|w| / max|level|
    asymmetric: zero is stored per group,        scale = (max w - min w) / (2**bits - 1)
                                                 (0 lies in between: it is always on the grid)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from jaxcomp.base import UnsupportedInput
from jaxcomp.kernels.packing import TRITS, least_tile

LONGEST_TILE = 128  # pairs of codes are half a tile apart; a TPU's registers hold 128 lanes


class Format(NamedTuple):
    """A number format. Constants of it are in the files beside; change one with _replace.

    bits   of a code, 1 to 8, or packing.TRITS
    group  values that share a scale; -1: a whole row, one per output; None: the whole matrix
    table  the levels, ascending or not, 2**bits of them; None: the codes themselves
    offset the level that means 0, of symmetric formats
    scale  how scales are stored: a dtype, "e8m0" (a power of two in a byte), or a Format
    zero   None: symmetric. "uint8": an integer. Another dtype, or a Format: any real number
    tile   codes per tile of packing (kernels/packing.py); 0: chosen when a weight is packed
    pad    whether a last group may be short: it is filled up, and the filling is counted
    """

    bits: int
    group: int | None = -1
    table: tuple[float, ...] | None = None
    offset: int = 0
    scale: "str | Format" = "bfloat16"
    zero: "str | Format | None" = None
    tile: int = 0
    pad: bool = False

    def __str__(self) -> str:
        return describe(self)


def describe(format: Format) -> str:
    """int4 g128, uint3 rows, table 4-bit g64, ..."""
    if format.table is not None:
        kind = "trit" if format.bits == TRITS else f"table{format.bits}"
    else:
        kind = ("int" if format.zero is None else "uint") + str(format.bits)
    group = {-1: "per channel", None: "per tensor"}.get(format.group, f"g{format.group}")
    scale = format.scale if isinstance(format.scale, str) else f"({format.scale})"
    return f"{kind} {group}" + ("" if scale == "bfloat16" else f" scale {scale}")


def levels(format: Format) -> np.ndarray:
    """f32[number of codes]: the level of every code from 0 on, offset taken off."""
    if format.table is not None:
        return np.asarray(format.table, np.float32) - format.offset
    return (np.arange(1 << format.bits) - (format.offset if format.zero is None else 0)).astype(
        np.float32
    )


def top(format: Format) -> float:
    """The largest |level| that a symmetric format scales to max|w|.

    Integers leave out their most negative level, so that the grid is symmetric; a one-sided format
    of two bits keeps -1, 0, 1.
    """
    return float(levels(format).max())


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
    """Rows cut into groups, filled up with zeros; one row and one group for a whole matrix."""
    size = padded_size(w.shape[1], format)
    if format.group is None:
        return w.reshape(1, 1, -1)
    w = jnp.pad(w, ((0, 0), (0, size - w.shape[1])))
    return w.reshape(w.shape[0], -1, size if format.group == -1 else format.group)


def fit(
    w: Float[Array, "*groups group"], format: Format, *, shrink: float | jax.Array = 1.0
) -> tuple[Float[Array, "*groups"], Float[Array, "*groups"] | None]:
    """(scales, zeros or None) whose grid spans each group, its range multiplied by `shrink`."""
    if format.zero is None:
        scale = jnp.abs(w).max(-1) * shrink / top(format)
        return jnp.where(scale > 0, scale, 1.0), None
    steps = float(np.ptp(levels(format)))
    low = jnp.minimum(w.min(-1), 0) * shrink
    high = jnp.maximum(w.max(-1), 0) * shrink
    scale = (high - low) / steps
    scale = jnp.where(scale > 0, scale, 1.0)
    zero = -low / scale + float(levels(format).min())
    return scale, jnp.round(zero) if format.zero == "uint8" else zero


def nearest(u: Float[Array, "*shape"], format: Format) -> Integer[Array, "*shape"]:
    """The code (as i32, from 0 on) whose level is nearest to u = w / scale (+ zero)."""
    grid = levels(format)
    if format.table is None:
        low = -float(grid.min())
        # The most negative level of a symmetric grid has no positive twin; it is used only where a
        # value lies beyond what the scale spans.
        return jnp.clip(jnp.round(u + low), 0, len(grid) - 1).astype(jnp.int32)
    order = np.argsort(grid, kind="stable")
    middles = (grid[order][1:] + grid[order][:-1]) / 2
    place = jnp.searchsorted(jnp.asarray(middles), u, method="compare_all")
    return jnp.asarray(order.astype(np.int32))[place]


def value(codes: Integer[Array, "*shape"], format: Format) -> Float[Array, "*shape"]:
    """Level of each code (from 0 on) as float32, offset taken off."""
    if format.table is None:
        return codes.astype(jnp.float32) + float(levels(format)[0])
    return jnp.asarray(levels(format))[codes]


def round_to(
    w: Float[Array, "*groups group"],
    scale: Float[Array, "*groups"],
    zero: Float[Array, "*groups"] | None,
    format: Format,
) -> tuple[Integer[Array, "*groups group"], Float[Array, "*groups group"]]:
    """(codes from 0 on, the values they stand for) of w on the grid of each group."""
    scale = scale[..., None]
    shift = 0.0 if zero is None else zero[..., None]
    codes = nearest(w / scale + shift, format)
    return codes, (value(codes, format) - shift) * scale
