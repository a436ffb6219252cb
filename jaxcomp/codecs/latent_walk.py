"""The order in which latents are coded, for encoders and decoders alike.

modes of blocks, then latents in groups: slice after slice, pass after pass; each group's tables
follow from those before it
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxcomp.coding import Tables

from .latent_codec import Design, networks
from .latent_frozen import CERTAIN, WIDE_SLICES, Frozen
from .latent_plane import SIDE_STRIDE, Cells, Layout
from .latent_prior import LATENT, LEVEL_BITS, OCTAVES, ROW, SIDE, Known, level_of, restore
from .latent_rounding import SILENT_ROWS

LANES = 16  # a lane costs about 20 bits
# Groups are of many sizes, programs that code them of few: shares of the largest.
SHARES = 1, 4


class Choices(NamedTuple):
    """What the encoder decided for a tile, cell by cell (latent_plane)."""

    latents: np.ndarray  # LATENT [m, 4, 4, c]
    modes: np.ndarray | None  # i32[m, 4, 4], where blocks have modes
    symbols: list[np.ndarray]  # i32[places, channels], of each group
    rows: list[np.ndarray]  # and their tables
    side: np.ndarray  # i32[m, 1, 1, side]
    active: np.ndarray  # bool[c]
    layout: Layout


def slices_of_groups(design: Design) -> list[int]:
    """The slice of each group, in order."""
    passes = networks(design).prior.passes_of
    return [k for k in range(len(design.slices)) for _ in range(passes(k))]


def tables_of(frozen: Frozen, k: int) -> Tables:
    """The tables of slice k."""
    return frozen.wide if k < WIDE_SLICES else frozen.narrow


def side_rows(layout: Layout, side: int) -> Int[np.ndarray, "m 1 1 side"]:
    """The tables of side information: one for each channel, and the certain one for no cell."""
    count = math.prod(layout.shape) // SIDE_STRIDE**2
    exists = np.arange(len(layout.cells.near)) < count
    rows = np.arange(side, dtype=np.int32)
    return np.where(exists[:, None, None, None], rows, np.int32(side))


@jax.jit
def mode_rows(step: Any, places: Any) -> Any:
    """The table of modes, by octave of the step in 1/16, for each block in places."""
    octave = level_of(jnp.int32(step)) >> LEVEL_BITS
    return jnp.where(places < len(places), octave, OCTAVES)


def coded_modes(step: int, choices: Choices) -> tuple[np.ndarray, np.ndarray]:
    """The modes of a tile in order of rows and columns, and their tables."""
    places = choices.layout.cells.places[1][0]
    return np.append(choices.modes, np.int32(0))[places], np.asarray(mode_rows(step, places))


def walk(
    design: Design,
    integers: Any,
    z: Array | np.ndarray,
    step: Array | np.int32,
    modes: Array | np.ndarray | None,
    active: Array | np.ndarray,
    cells: Cells,
    visit: Callable[[int, int, Array, Array], Array],
) -> list[Int[Array, "m 4 4 n"]]:
    """The latents of each slice, by side information and modes; visit codes group after group.

    visit(k, number, mean, row) -> symbols, of pass `number` over slice k. mean: [places, channels];
    row and symbols: [steps, LANES], the same positions in order, in one of few sizes. row is
    CERTAIN where nothing is coded: in channels that are not active, where 0 is nearly certain, and
    beyond the group.
    """
    module, latents, group, symbols = networks(design).prior, [], None, None
    for k in range(len(design.slices)):
        for number in range(module.passes_of(k)):
            group, before = _group(
                design, k, number, integers, z, step, modes, active, cells, group, symbols
            )
            latents += [before] if k and not number else []
            symbols = visit(k, number, group.mean, group.row)
    return [*latents, _placed(design, k, number, group, symbols, cells)]


def group_programs(
    add: Callable, design: Design, integers: Any, z: Any, step: Any, modes: Any, cells: Cells
) -> list[tuple[int, Any]]:
    """Adds those of a walk (compile_ahead); the slice and the shape of row of each visit."""
    group, rows = None, []
    active = jax.ShapeDtypeStruct((sum(design.slices),), bool)
    for k in range(len(design.slices)):
        for number in range(networks(design).prior.passes_of(k)):
            symbols = jax.ShapeDtypeStruct(rows[-1][1].shape, np.int32) if rows else None
            given = integers, z, step, modes, active, cells, group, symbols
            group, _ = add(_group, design, k, number, *given)
            rows.append((k, group.row))
    symbols = jax.ShapeDtypeStruct(rows[-1][1].shape, np.int32)
    add(_placed, design, k, number, group, symbols, cells)
    return rows


class _Group(NamedTuple):
    """What is known at a group, and what that says of it."""

    known: Known
    part: Array  # LATENT [m, 4, 4, n], of its slice
    mean: Array  # LATENT [places, n]
    row: Array  # ROW [steps, LANES]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _group(design, k, number, integers, z, step, modes, active, cells, before, symbols):
    """(pass `number` over slice k, the latents of the slice that the group before has ended).

    One program for each: encoders and decoders share them.
    """
    module, size = networks(design).prior, design.slices[k]
    z = z.astype(SIDE.dtype)
    if before is not None:
        passes = module.passes_of(k - 1)
        last = (k, number - 1) if number else (k - 1, passes - 1)
        part = _place(design, *last, before, symbols, cells)

    def follow(prior):
        if before is None:
            known = prior.begin(z, level_of(step)[None], modes, cells)
        else:
            known = before.known if number else prior.go_on(k - 1, before.known, part, cells)
        here = part if number else jnp.zeros((*known.features.shape[:3], size), LATENT.dtype)
        return known, here, prior.group(k, number, known, here, z, cells)

    known, here, found = module.apply(integers, method=follow)
    places = cells.places[module.passes_of(k)][number]
    mean, row = (jnp.take(x.reshape(-1, size), places, axis=0, mode="clip") for x in found)
    start = sum(design.slices[:k])
    coded = (places < here.size // size)[:, None] & active[start : start + size]
    row = jnp.where(coded & (row >= SILENT_ROWS), row, ROW.dtype(CERTAIN))
    steps = steps_of(design, cells, k, number)
    group = _Group(known, here, mean, in_steps(row, steps, CERTAIN))
    return group, None if before is None else part


def _place(design, k, number, group, symbols, cells):
    """The part of a group, and its own latents where they belong."""
    places = cells.places[networks(design).prior.passes_of(k)][number]
    shape = len(places), design.slices[k]
    symbols = symbols.ravel()[: math.prod(shape)].reshape(shape)
    part = group.part.reshape(-1, shape[1])
    part = part.at[places].set(restore(symbols, group.mean), mode="drop")
    return part.reshape(group.part.shape)


_placed = functools.partial(jax.jit, static_argnums=(0, 1, 2))(_place)


def steps_of(design: Design, cells: Cells, k: int, number: int) -> int:
    """Steps that pass `number` over slice k is given: of the most that one takes, a share."""
    passes = networks(design).prior.passes_of

    def needed(k, number):
        return -(-len(cells.places[passes(k)][number]) * design.slices[k] // LANES)

    most = max(needed(i, n) for i in range(len(design.slices)) for n in range(passes(i)))
    return min(n for n in (-(-most // share) for share in SHARES) if n >= needed(k, number))


def in_steps(x: Any, steps: int | None, fill: int) -> Any:
    """x in rows of all lanes, so many of them or as many as it needs; then `fill`."""
    xp = np if isinstance(x, np.ndarray) else jnp
    more = -x.size % LANES if steps is None else steps * LANES - x.size
    return xp.pad(x.ravel(), (0, more), constant_values=fill).reshape(-1, LANES)


def ideal_bits(
    tables: Tables, symbols: Int[np.ndarray, "*shape"], rows: Int[np.ndarray, "*shape"]
) -> float:
    """Code lengths of all symbols under integer tables, and those of escapes."""
    column, beyond = outside(tables, symbols, rows)
    last = tables.entries.shape[1] - 1
    frequency = (np.asarray(tables.entries)[rows, np.where(beyond, last, column)] >> 16) + 1.0
    # What lies outside follows as an exponential Golomb code of about twice its distance.
    distance = np.where(column < 0, -column, column - last)[beyond]
    codes = 2 * np.floor(np.log2(2.0 * distance + 2)) + 1
    return float((tables.precision - np.log2(frequency)).sum() + codes.sum())


def bits_of_zero(tables: Tables) -> Float[np.ndarray, " rows"]:
    """What a zero costs in each row of tables."""
    rows = np.arange(len(tables.entries))
    frequency = (np.asarray(tables.entries)[rows, -np.asarray(tables.offset)] >> 16) + 1.0
    return tables.precision - np.log2(frequency)


def outside(tables: Tables, symbols: Any, rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """The column of each symbol, and whether it lies outside its table."""
    column = symbols - np.asarray(tables.offset)[rows]
    return column, (column < 0) | (column >= tables.entries.shape[1] - 1)


def bits(design: Design, frozen: Frozen, step: int, choices: Choices) -> float:
    """Ideal code lengths of all symbols of a tile."""
    total = ideal_bits(frozen.side, choices.side, side_rows(choices.layout, design.side))
    if choices.modes is not None:
        total += ideal_bits(frozen.modes, *coded_modes(step, choices))
    for k, symbols, rows in zip(
        slices_of_groups(design), choices.symbols, choices.rows, strict=True
    ):
        total += ideal_bits(tables_of(frozen, k), symbols, rows)
    return total
