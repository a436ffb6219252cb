"""Codebook: runs of d inputs are vectors of a table, or sums of one vector from each of M tables.

    w[o, v d : v d + d] = scale[o] * sum over m of table[t(o), segment(v), m, code[o, v, m]]

A table may be one for all outputs, one for each, or one of a few that each output chooses by a
byte; and one for all inputs or one for each of S segments of them. codes take `bits` each: packed
up to 8 bits, and two bytes beyond.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Num

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.formats import rows
from jaxcomp.formats.format import Format
from jaxcomp.formats.layout import Layout, merged_axis
from jaxcomp.formats.leaf import Leaf, is_shared, leaf_class, static
from jaxcomp.kernels import packing

MOST_TABLES = 256  # to choose among: choices are bytes


@leaf_class
class Codebook(Leaf):
    """codes u8 or u16 [..., vectors * M packed, ...]; table [..., S * M * levels * d, ...];
    scales [..., groups, ...], or None; choices u8 [..., 1, ...] where outputs share some tables of
    2**bits levels, which then lie end to end, or None. `codebook` and `additive` make them."""

    codes: Any
    table: Any
    scales: Any
    bits: int = static()
    vector: int = static()
    books: int = static()
    segments: int = static()
    tile: int = static()
    dtype: Any = static()
    packed: Any = static()
    choices: Any = None

    follows = ("codes", "scales")

    @jax.jit
    def dense(self) -> jax.Array:
        axis = merged_axis(self.packed)
        codes = self.codes
        if codes.dtype == jnp.uint8:
            codes = packing.unpack(codes, self.bits, axis=axis, tile=self.tile)
        codes = jnp.moveaxis(codes.astype(jnp.int32), axis, -1)
        table = jnp.moveaxis(self.table.astype(jnp.float32), axis, -1)
        table = table.reshape(*table.shape[:-1], -1, self.vector)  # [*free, S M levels, d]
        vectors = self._vectors
        codes = codes[..., : vectors * self.books].reshape(*codes.shape[:-1], vectors, self.books)
        levels = self._levels
        segment = jnp.arange(vectors) // (vectors // self.segments)
        codes += (segment[:, None] * self.books + jnp.arange(self.books)) * levels
        if self.choices is not None:
            chosen = jnp.moveaxis(self.choices.astype(jnp.int32), axis, -1)  # [*free, 1]
            codes += chosen[..., None] * (self.segments * self.books * levels)
        total = 0.0
        for book in range(self.books):
            index = codes[..., book]
            if is_shared(self.table, self.packed):
                total += table.reshape(-1, self.vector)[index]
            else:
                total += jnp.take_along_axis(table, index[..., None], -2)
        w = total.reshape(*codes.shape[:-2], -1)  # [*free, in]
        if self.scales is not None:
            scales = jnp.moveaxis(self.scales.astype(jnp.float32), axis, -1)
            grouped = w.reshape(*w.shape[:-1], scales.shape[-1], -1)
            w = (grouped * scales[..., None]).reshape(w.shape)
        return rows.from_last(w, self)

    @property
    def _levels(self) -> int:
        """Of one table, for one segment and book."""
        every = self.table.shape[merged_axis(self.packed)] // self.vector
        return 1 << self.bits if self.choices is not None else every // (self.segments * self.books)

    @property
    def _vectors(self) -> int:
        """Vectors in a row, those that fill up the last segment or scale counted."""
        size = self.layout.size_in
        groups = 1 if self.scales is None else self.scales.shape[merged_axis(self.packed)]
        return whole_vectors(size, self.vector, self.segments, groups)

    def matmul(self, x: jax.Array) -> jax.Array:
        return rows.matmul(x, self)

    def describe(self) -> str:
        books = f"{self.books} x " if self.books > 1 else ""
        one = self.segments * self.books * self._levels * self.vector
        tables = self.table.shape[merged_axis(self.packed)] // one
        several = f", of {tables} tables" if tables > 1 else ""
        return f"codebook {books}{self.bits} bits of {self.vector}{several}"

    def kernel(self, platform: str, dtype: Any = None) -> tuple[str, str]:
        return "blocked lax", "" if platform == "cpu" else f"no kernel for codebooks on {platform}"

    def placed(self, place: Layout) -> "Codebook":
        """From the matrix [out, in] that it is, to where `place` says."""
        return rows.place(self, place)


def whole_vectors(size: int, vector: int, segments: int, groups: int) -> int:
    """The least number of vectors that covers `size` values in whole segments and groups."""
    unit = math.lcm(segments, groups // math.gcd(groups, vector))
    return -(-size // (vector * unit)) * unit


def codebook(
    codes: Integer[Array, "out vectors"],
    table: Float[Array, "..."],
    scales: Float[Array, "out groups"] | None = None,
    choices: Integer[Array, " out"] | None = None,
    *,
    size: int,
    kept: str = "bfloat16",
    dtype: Any = jnp.float32,
) -> Codebook:
    """A matrix of vectors from a table [levels, d], or [out or 1, segments, levels, d].

    size: the inputs; vectors * d of them or fewer. Tables and scales are stored as `kept`.
    choices: which of up to 256 tables [tables, segments, levels, d] each output has.
    """
    table = table[None, None] if table.ndim == 2 else table
    return tabled(codes[..., None], table[:, :, None], scales, size, kept, dtype, choices)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def tabled(
    codes: Integer[Array, "out vectors books"],
    table: Float[Array, "shared segments books levels vector"],
    scales: Num[Array, "out groups"] | None,
    size: int,
    kept: str,
    dtype: Any,
    choices: Integer[Array, " out"] | None = None,
) -> Codebook:
    out, vectors, books = codes.shape
    shared, segments, _, levels, vector = table.shape
    groups = 1 if scales is None else scales.shape[1]
    expected = whole_vectors(size, vector, segments, groups)
    served = shared in (1, out) if choices is None else shared <= MOST_TABLES
    if vectors != expected or not served or table.shape[2] != books:
        raise UnsupportedInput(
            f"expected {expected} vectors of {vector} for {size} inputs and a table for all or each"
            f" of {out} outputs, or up to {MOST_TABLES} to choose from, got {vectors} and {shared};"
            " pad the codes, or choose a vector and segments that divide the inputs"
        )
    bits = max(1, (levels - 1).bit_length())
    if bits > 16:
        raise UnsupportedInput(f"expected at most 65536 levels, got {levels}; add a book instead")
    flat = codes.reshape(out, -1)
    tile = 0
    if bits <= 8:
        format = Format(bits)
        tile = grids.with_tile(format, flat.shape[1]).tile
        padded = -(-grids.padded_size(flat.shape[1], format) // tile) * tile
        flat = jnp.pad(flat, ((0, 0), (0, padded - flat.shape[1]))).astype(jnp.uint8)
        flat = packing.pack(flat, bits, axis=1, tile=tile)
    else:
        flat = flat.astype(jnp.uint16)
    scales = None if scales is None else scales.astype(kept)
    if choices is not None:
        table = jnp.pad(table, ((0, 0),) * 3 + ((0, (1 << bits) - levels), (0, 0)))
        shared, choices = 1, choices.astype(jnp.uint8)[:, None]
    table = table.reshape(shared, -1).astype(kept)
    static = (bits, vector, books, segments, tile, jnp.dtype(dtype))
    return Codebook(flat, table, scales, *static, ((-1, size),), choices)
