"""GridChoice: every group of values picks its levels among a few tables that all groups share.

    w = scale[group] * table[choice[group], code]

A choice takes a byte beside the scale. Tails differ from output to output, and one list of levels
serves short tails or long ones; with a choice each output gets the list that serves it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Integer

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.formats import rows
from jaxcomp.formats.format import Format
from jaxcomp.formats.layout import Layout, merged_axis
from jaxcomp.formats.leaf import Leaf, leaf_class, static
from jaxcomp.formats.level_rules import MOST_TABLES, Levels, Tables
from jaxcomp.formats.level_rules import tables as tables_of
from jaxcomp.formats.qtensor import QTensor, check_concrete, from_codes, read, store
from jaxcomp.kernels import packing

# What max|w| / max|level| is multiplied by in turn: cutting off less than a 25th of the range more
# at a time finds no more than 1 % of squared error.
SHRINK = tuple(1 - i / 25 for i in range(21))


@leaf_class
class GridChoice(Leaf):
    """codes u8 [..., in' packed, ...]; scales [..., groups, ...]; choices u8, as scales.

    tables are static, and better a rule of few numbers than tables as they stand: these are in no
    nbytes, and in a file once for each leaf. All have 2**bits levels. format says how the rest is
    kept.
    """

    codes: Any  # a file is read once without arrays
    scales: Any
    choices: Any
    tables: Tables | Levels = static()
    format: Format = static()
    dtype: object = static()
    packed: object = static()

    follows = ("codes", "scales", "choices")

    def dense(self) -> jax.Array:
        axis, format = merged_axis(self.packed), self.format
        codes = packing.unpack(self.codes, format.bits, axis=axis, tile=format.tile)
        codes = jnp.moveaxis(codes.astype(jnp.int32), axis, -1)  # [*free, in']
        choices = jnp.moveaxis(self.choices.astype(jnp.int32), axis, -1)
        scales, _ = read(self.scales, None, format)
        scales = jnp.moveaxis(scales, axis, -1)
        grouped = codes.reshape(*codes.shape[:-1], choices.shape[-1], -1)
        tables = jnp.asarray(tables_of(self.tables), jnp.float32)
        values = tables.reshape(-1)[choices[..., None] * tables.shape[1] + grouped]
        values = values * scales[..., None]
        return rows.from_last(values.reshape(codes.shape), self)

    def matmul(self, x: jax.Array) -> jax.Array:
        return rows.matmul(x, self)

    def describe(self) -> str:
        return f"{self.format}, of {len(tables_of(self.tables))} tables"

    def kernel(self, platform: str, dtype: Any = None) -> tuple[str, str]:
        return "blocked lax", "" if platform == "cpu" else f"no kernel for tables on {platform}"

    def placed(self, place: Layout) -> "GridChoice":
        """From the matrix [out, in] that it is, to where `place` says."""
        return rows.place(self, place)


def choose(
    w: Float[Array, "out in"],
    tables: Tables | Levels,
    format: Format,
    *,
    shrink: tuple[float, ...] = SHRINK,
    dtype: Any = jnp.float32,
) -> GridChoice | QTensor:
    """The matrix rounded to nearest: for each group the table and the scale of least squared error.

    tables: a rule, or 2**format.bits levels each, in any order; a level may stand twice. format:
    bits, group, scale, pad and name; its own table is not used. The scales tried are
    max|w| / max(table) times each of `shrink`, and max|w| / |min(table)|. One table makes a
    QTensor of it.
    """
    check_tables(tables, format)
    check_concrete(w, "w")
    format = _of_first(format, tables)
    codes, scales, choices = _search(w.astype(jnp.float32), tables, format, shrink)
    return chosen(codes, scales, choices, tables, format, size=w.shape[1], dtype=dtype)


def chosen(
    codes: Integer[Array, "out in"],
    scales: Any,
    choices: Integer[Array, "out groups"],
    tables: Tables | Levels,
    format: Format,
    *,
    size: int,
    dtype: Any = jnp.float32,
) -> GridChoice | QTensor:
    """A matrix of codes that index their table as it stands, and of scales as stored."""
    format = _of_first(format, tables)
    leaf = from_codes(codes, scales, None, format, size=size, dtype=dtype)
    if len(tables_of(tables)) == 1:
        return leaf
    static = (tables, leaf.format._replace(table=None), leaf.dtype, leaf.packed)
    return GridChoice(leaf.codes, leaf.scales, choices.astype(jnp.uint8), *static)


def _of_first(format: Format, tables: Tables | Levels) -> Format:
    rule = isinstance(tables, Levels)
    table = tables._replace(of=tables.of[:1]) if rule else tables[0]
    return format._replace(table=table, offset=0, zero=None)


def check_tables(tables: Tables | Levels, format: Format) -> None:
    """UnsupportedInput where the tables are not some, or not of the format's number of levels."""
    tables = tables_of(tables)
    sizes = {len(table) for table in tables}
    if not 0 < len(tables) <= MOST_TABLES or sizes != {1 << format.bits}:
        raise UnsupportedInput(
            f"expected 1 to {MOST_TABLES} tables of {1 << format.bits} levels for {format.bits} "
            f"bits, got {len(tables)} of {sorted(sizes)}; give each table all its levels"
        )
    if format.group is None:
        raise UnsupportedInput(
            "expected a group that chooses its levels, got group=None; choose group=-1, one "
            "choice per output"
        )


class _Grids(NamedTuple):
    """The tables in ascending order: levels and codes [tables, levels], middles one less."""

    levels: jax.Array
    middles: jax.Array
    codes: jax.Array

    def index(self, u: jax.Array, which: Any) -> jax.Array:
        """Of the level nearest to each u, in ascending order."""
        middles = self.middles[which]
        if len(middles) >= grids.CHAIN:
            return jnp.searchsorted(middles, u, method="scan_unrolled")
        return sum((u > middle).astype(jnp.int32) for middle in middles)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _search(w, tables, format, shrink):
    """(codes [out, in'], scales as stored, choices u8[out, groups])."""
    grouped, tables = grids.in_groups(w, format), tables_of(tables)
    order = np.argsort(np.asarray(tables), 1).astype(np.int32)
    levels = np.take_along_axis(np.asarray(tables, np.float32), order, 1)
    known = _Grids(*map(jnp.asarray, (levels, (levels[:, 1:] + levels[:, :-1]) / 2, order)))
    spans = [(*(top / p for p in shrink), -low or top) for low, *_, top in levels.tolist()]
    factors = jnp.asarray(1 / np.asarray(spans), jnp.float32)  # [tables, scales tried]
    largest = jnp.abs(grouped).max(-1)
    largest = jnp.where(largest > 0, largest, 1.0)

    def unit(scale):
        kept = read(*store(scale, None, format), format)[0][..., None]
        return grouped / jnp.where(kept == 0, 1.0, kept), kept

    def step(i, best):
        which, turn = i // factors.shape[1], i % factors.shape[1]
        scale = largest * factors[which, turn]
        u, kept = unit(scale)
        off = jnp.square(known.levels[which][known.index(u, which)] * kept - grouped).sum(-1)
        found = (off, scale, jnp.full(off.shape, which, jnp.uint8))
        return tuple(jnp.where(off < best[0], a, b) for a, b in zip(found, best, strict=True))

    start = (jnp.full_like(largest, jnp.inf), largest, jnp.zeros(largest.shape, jnp.uint8))
    _, scale, choices = lax.fori_loop(0, factors.size, step, start)
    u, _ = unit(scale)

    def code(which, codes):
        near = known.codes[which][known.index(u, which)]
        return jnp.where(choices[..., None] == which, near, codes)

    codes = lax.fori_loop(0, len(tables), code, jnp.zeros(u.shape, jnp.int32))
    return codes.reshape(len(w), -1), store(scale, None, format)[0], choices
