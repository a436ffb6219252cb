"""The lax twin of the rANS kernels: what a CPU runs, and what defines the kernels' results.

Fast on a CPU means few, plain loads: gathers are one-dimensional with a precomputed index, integers
are divided through float32, and flags are summed by words instead of one by one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int32, UInt16, UInt32


def encode(
    head: UInt32[Array, "groups lanes"],
    start_freq: UInt32[Array, "groups steps lanes"],
    *,
    precision: int,
) -> tuple[
    UInt32[Array, "groups lanes"],
    UInt16[Array, "groups steps lanes"],
    Bool[Array, "groups steps lanes"],
]:
    """(head, word, emit): the word that each push would emit, and whether it does.

    A group's stack is the emitted words, last step and last lane first.
    """
    planes = start_freq.swapaxes(0, 1)
    return encode_steps(head, planes, lambda _, entry: (None, entry), None, precision=precision)[:3]


def encode_steps(
    head: UInt32[Array, "groups lanes"],
    steps: Any,
    interval: Callable[[Any, Any], tuple[Any, UInt32[Array, "groups lanes"]]],
    carry: Any,
    *,
    precision: int,
) -> tuple[
    UInt32[Array, "groups lanes"],
    UInt16[Array, "groups steps lanes"],
    Bool[Array, "groups steps lanes"],
    Any,
]:
    """encode, with interval(carry, step) -> (carry, packed intervals) looked up on the way.

    It is called on the leading slices of `steps`, last step first.
    """

    def push(state, step):
        x, carry = state
        carry, entry = interval(carry, step)
        freq, start = (entry >> 16) + 1, entry & 0xFFFF
        emit = x >> 16 >= freq << (16 - precision)
        word = x.astype(jnp.uint16)
        x = jnp.where(emit, x >> 16, x)
        quotient = _divide(x, freq, precision)
        x = (quotient << precision) + start + (x - quotient * freq)
        return (x, carry), (word, emit)

    (head, carry), out = lax.scan(push, (head, carry), steps, reverse=True)
    word, emit = (x.swapaxes(0, 1) for x in out)
    return head, word, emit, carry


def _divide(x: jax.Array, freq: jax.Array, precision: int) -> jax.Array:
    """x // freq for x < freq << (32 - precision), without integer division where possible."""
    if precision < 10:
        return x // freq
    # No vector unit divides integers. The quotient is below 2**22 and a float32 estimate has a
    # relative error below 2**-22, so it is off by one at most; the remainder tells which way.
    quotient = (x.astype(jnp.float32) / freq.astype(jnp.float32)).astype(jnp.uint32)
    rest = x - quotient * freq
    low = rest >> 31
    return quotient - low + ((low == 0) & (rest >= freq))


def decode(
    head: UInt32[Array, "groups lanes"],
    words: UInt16[Array, "groups capacity"],
    size: Int32[Array, " groups"],
    tables: tuple[UInt32[Array, "tables symbols"], UInt32[Array, "tables buckets"] | None],
    index: Int32[Array, "groups steps lanes"] | None,
    count: Int32[Array, " groups"],
    *,
    precision: int,
    steps: int,
) -> tuple[
    Int32[Array, "groups steps lanes"], UInt32[Array, "groups lanes"], Int32[Array, " groups"]
]:
    """(column of each symbol, head, size), popping `steps` symbols per lane."""
    entries, directory = tables
    groups, lanes = head.shape
    lane = jnp.arange(lanes, dtype=jnp.int32)
    first_word = jnp.arange(groups, dtype=jnp.int32)[:, None] * words.shape[1]
    width, buckets = entries.shape[1], 1 << max(precision - 4, 0)
    narrow = jnp.uint8 if width <= 256 else jnp.uint16
    flat_entries, flat_words = entries.reshape(-1), words.reshape(-1)
    flat_directory = None if directory is None else directory.reshape(-1)

    def load(array, place):
        # XLA itself clamps what a corrupt stream asks for; the promise saves a second clamp.
        return jnp.asarray(array).at[place].get(mode="promise_in_bounds")

    def find(table, slot):
        if directory is not None:
            bucket = load(flat_directory, table * buckets + (slot >> 4))
            starts = bucket & ((jnp.uint32(2) << (slot & 15).astype(jnp.uint32)) - 1) & 0xFFFF
            return ((bucket >> 16) + lax.population_count(starts)).astype(jnp.int32) & 0xFFFF
        symbol = jnp.zeros_like(table)
        for bit in reversed(range((width - 1).bit_length())):
            probe = symbol + (1 << bit)
            column = jnp.minimum(probe, width - 1)
            start = load(flat_entries, table * width + column) & 0xFFFF
            fits = (probe == column) & (start <= slot.astype(jnp.uint32))
            symbol = jnp.where(fits, probe, symbol)
        return symbol

    def pop(carry, step):
        x, size = carry
        t, table = step
        valid = t * lanes + lane < count[:, None]
        table = jnp.zeros_like(x, jnp.int32) if table is None else table
        slot = (x & ((1 << precision) - 1)).astype(jnp.int32)
        symbol = find(table, slot)
        entry = load(flat_entries, table * width + symbol)
        new = ((entry >> 16) + 1) * (x >> precision) + slot.astype(jnp.uint32) - (entry & 0xFFFF)
        x = jnp.where(valid, new, x)
        need = x < 1 << 16
        taken = prefix_sum(need)
        word = load(flat_words, first_word + size[:, None] - taken)
        return (jnp.where(need, x << 16 | word, x), size - taken[:, -1]), symbol.astype(narrow)

    def step(t, state):
        carry, symbols = state
        table = None if index is None else lax.dynamic_index_in_dim(index, t, 1, keepdims=False)
        carry, symbol = pop(carry, (t, table))
        return carry, lax.dynamic_update_index_in_dim(symbols, symbol, t, 0)

    # Steps without a valid position cost nothing.
    used = jnp.minimum((count.max() + lanes - 1) // lanes, steps)
    # Zeros that are as distributed over devices as states are.
    symbols = jnp.broadcast_to((head & 0).astype(narrow), (steps, groups, lanes))
    (head, size), symbols = lax.fori_loop(0, used, step, ((head, size), symbols))
    symbols = symbols.swapaxes(0, 1).astype(jnp.int32)
    valid = jnp.arange(steps * lanes).reshape(steps, lanes) < count[:, None, None]
    return jnp.where(valid, symbols, 0), head, size


def prefix_sum(flags: Bool[Array, "groups lanes"]) -> Int32[Array, "groups lanes"]:
    """Inclusive sums along lanes.

    A multiplication by 0x01010101 sums the four bytes of a word, and a small int8 matrix product
    sums the words: 10 times as fast on a CPU as a cumulative sum.
    """
    groups, lanes = flags.shape
    if lanes % 4:
        return jnp.cumsum(flags, axis=1, dtype=jnp.int32)
    quads = lax.bitcast_convert_type(flags.astype(jnp.uint8).reshape(groups, -1, 4), jnp.uint32)
    sums = quads * jnp.uint32(0x01010101)
    before = jnp.triu(jnp.ones((lanes // 4, lanes // 4), jnp.int8), 1)
    totals = (sums >> 24).astype(jnp.int8)
    offset = lax.dot(totals, before, preferred_element_type=jnp.int32)
    inside = lax.bitcast_convert_type(sums, jnp.uint8).astype(jnp.int32)
    return (inside + offset[:, :, None]).reshape(groups, lanes)
