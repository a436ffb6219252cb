"""Interleaved rANS decoding: stacks of 16-bit words -> symbols, one stack per group of lanes.

The inverse of rans_encode. A lane with state x takes the symbol whose interval of frequency f and
cumulative frequency c holds the slot x & (2**p - 1), then

    x = f * (x >> p) + slot - c;  if x < 2**16: x = x << 16 | next word

Steps are visited 0..T-1. Within a step the lanes that need a word take them in ascending lane
order, the first taken being words[size - 1], the next words[size - 2], and so on. Positions past a
group's count of valid symbols leave the state untouched and return symbol 0.

The symbol of a slot is found in one of two ways. `directory` holds one entry per bucket of 16
slots: the symbol before the bucket's first interval << 16 | a mask of the slots that start one; so
two gathers and a popcount find a symbol. Without a directory, the cumulative frequencies are searched.

Corrupt input never reads out of bounds: a stack that runs out yields unspecified words while size
counts on below zero.

Shapes: G groups, T steps, L lanes, N tables of K symbols at precision p.
"""

import functools

import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Int32, UInt16, UInt32

from jaxcomp.kernels import dispatch

Tables = tuple[UInt32[Array, "tables symbols"], UInt32[Array, "tables buckets"] | None]
Decoded = tuple[
    Int32[Array, "groups steps lanes"], UInt32[Array, "groups lanes"], Int32[Array, "groups"]
]


def run(
    head: UInt32[Array, "groups lanes"],
    words: UInt16[Array, "groups capacity"],
    size: Int32[Array, "groups"],
    tables: Tables,
    index: Int32[Array, "groups steps lanes"] | None,
    count: Int32[Array, "groups"] | int,
    *,
    precision: int,
    steps: int,
) -> Decoded:
    """Pop `steps` symbols per lane: (symbols as columns of their table, head, size).

    index chooses the table of each symbol (None: table 0). count is the number of valid
    positions per group in (step, lane) order, or, as an int, of all groups together in
    (group, step, lane) order.
    """
    groups, lanes = head.shape
    if isinstance(count, int):
        before = jnp.arange(groups, dtype=jnp.int32) * (steps * lanes)
        count = jnp.clip(count - before, 0, steps * lanes)
    if words.shape[1] == 0:
        words = jnp.zeros((groups, 1), jnp.uint16)
    entries, directory = tables
    options = (precision, steps, directory is not None, index is not None)
    optional = [x for x in (directory, index) if x is not None]
    return _coder(*options)(head, words, size, count.astype(jnp.int32), entries, *optional)


@functools.cache
def _coder(precision: int, steps: int, has_directory: bool, has_index: bool):
    """The decoder at its static arguments, with a batch under vmap folded into the groups."""

    def unpack(rest):
        rest = list(rest)
        return rest.pop(0) if has_directory else None, rest.pop(0) if has_index else None

    @custom_vmap
    def call(head, words, size, count, entries, *rest):
        def plain(head, words, size, count, entries, *rest):
            directory, index = unpack(rest)
            tables = (entries, directory)
            return reference(
                head, words, size, tables, index, count, precision=precision, steps=steps
            )

        return dispatch.by_platform(head, words, size, count, entries, *rest, reference=plain)

    @call.def_vmap
    def fold(axis_size, in_batched, head, words, size, count, entries, *rest):
        directory, index = unpack(rest)
        directory_batched, index_batched = unpack(in_batched[5:])

        def merge(x, batched):
            if not batched:
                x = jnp.broadcast_to(x, (axis_size, *x.shape))
            return x.reshape(axis_size * x.shape[1], *x.shape[2:])

        groups = axis_size * (head.shape[1] if in_batched[0] else head.shape[0])
        lanes = head.shape[-1]
        merged = [
            merge(*pair) for pair in zip((head, words, size, count), in_batched, strict=False)
        ]
        if index is not None:
            index = merge(index, index_batched)
        if in_batched[4] or directory_batched:
            # One set of tables per batch element: stack the sets and shift the indices.
            tables = entries.shape[-2]
            entries = merge(entries, in_batched[4])
            directory = None if directory is None else merge(directory, directory_batched)
            first = jnp.repeat(jnp.arange(axis_size, dtype=jnp.int32) * tables, groups // axis_size)
            first = first[:, None, None]
            index = first if index is None else jnp.clip(index, 0, tables - 1) + first
            index = jnp.broadcast_to(index, (groups, steps, lanes))
        optional = [x for x in (directory, index) if x is not None]
        inner = _coder(precision, steps, directory is not None, index is not None)
        out = inner(*merged, entries, *optional)
        return tuple(x.reshape(axis_size, -1, *x.shape[1:]) for x in out), (True,) * len(out)

    return call


# ---- reference -----------------------------------------------------------------------------------


def reference(
    head: UInt32[Array, "groups lanes"],
    words: UInt16[Array, "groups capacity"],
    size: Int32[Array, "groups"],
    tables: Tables,
    index: Int32[Array, "groups steps lanes"] | None,
    count: Int32[Array, "groups"],
    *,
    precision: int,
    steps: int,
) -> Decoded:
    """The plain lax twin of `run`, which defines its result."""
    entries, directory = tables
    groups, lanes = head.shape
    lane = jnp.arange(lanes, dtype=jnp.int32)

    def find(table, slot):
        if directory is not None:
            bucket = directory[table, slot >> 4]
            starts = bucket & ((jnp.uint32(2) << (slot & 15)) - 1) & 0xFFFF
            return ((bucket >> 16) + lax.population_count(starts)).astype(jnp.int32) & 0xFFFF
        symbol = jnp.zeros_like(table)
        for bit in reversed(range((entries.shape[1] - 1).bit_length())):
            probe = symbol + (1 << bit)
            column = jnp.minimum(probe, entries.shape[1] - 1)
            fits = (probe == column) & (entries[table, column] & 0xFFFF <= slot)
            symbol = jnp.where(fits, probe, symbol)
        return symbol

    def pop(carry, step):
        x, size = carry
        t, table = step
        valid = t * lanes + lane < count[:, None]
        table = jnp.zeros_like(x, jnp.int32) if table is None else table
        slot = x & ((1 << precision) - 1)
        symbol = jnp.where(valid, find(table, slot), 0)
        entry = entries[table, symbol]
        new = ((entry >> 16) + 1) * (x >> precision) + slot - (entry & 0xFFFF)
        x = jnp.where(valid, new, x)
        need = x < 1 << 16
        taken = jnp.cumsum(need.astype(jnp.int32), axis=1)
        place = jnp.clip(size[:, None] - taken, 0, words.shape[1] - 1)
        word = jnp.take_along_axis(words, place, axis=1)
        x = jnp.where(need, x << 16 | word, x)
        return (x, size - taken[:, -1]), symbol

    each = (jnp.arange(steps), None if index is None else index.swapaxes(0, 1))
    (head, size), symbols = lax.scan(pop, (head, size), each)
    return symbols.swapaxes(0, 1), head, size


# ---- end of reference ----------------------------------------------------------------------------


def supports(
    head: tuple[int, int],
    entries: tuple[int, int],
    *,
    directory: bool,
    index: bool,
    precision: int,
    steps: int,
    platform: str,
) -> bool:
    """Whether the kernel of `platform` ("cuda" or "tpu") takes arguments of these shapes."""
    return False
