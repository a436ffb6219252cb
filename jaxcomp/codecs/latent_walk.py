"""The order in which latents are coded, for encoders and decoders alike.

modes of blocks, then latents in groups: slice after slice, pass after pass; each group's tables
follow from those before it
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxcomp.coding import Tables

from .latent_codec import Design, networks
from .latent_frozen import WIDE_SLICES, Frozen
from .latent_plane import SIDE_STRIDE, Cells, Layout
from .latent_prior import LATENT, LEVEL_BITS, OCTAVES, SIDE, level_of, restore


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
    z: Array,
    step: Array,
    modes: Array | np.ndarray | None,
    cells: Cells,
    visit: Callable[..., Array],
) -> Int[Array, "m 4 4 c"]:
    """The latents of side information and modes; visit codes one group after the other.

    visit(k, places, channels, mean, row) -> symbols; all three [places, channels]. Where there is
    no block, row is 0.
    """
    module = networks(design).prior
    prior = functools.partial(module.apply, integers, plane=cells)
    z = z.astype(SIDE.dtype)
    known, decoded, start = prior(z, level_of(step)[None], modes, method="begin"), [], 0
    for k, size in enumerate(design.slices):
        channels, passes = slice(start, start + size), module.passes_of(k)
        part = jnp.zeros((*known.features.shape[:3], size), LATENT.dtype)
        for number in range(passes):
            group = prior(k, number, known, part, z, method="group")
            places = cells.places[passes][number]
            mean, row = (jnp.take(x.reshape(-1, size), places, axis=0, mode="clip") for x in group)
            row = jnp.where((places < len(part) * SIDE_STRIDE**2)[:, None], row, 0)
            symbols = visit(k, places, channels, mean, row.astype(jnp.int32))
            found = part.reshape(-1, size).at[places].set(restore(symbols, mean), mode="drop")
            part = found.reshape(part.shape)
        known = prior(k, known, part, method="go_on")
        decoded.append(part)
        start += size
    return jnp.concatenate(decoded, -1)


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
