"""The lax twin of the rANS kernels: what a CPU runs, and what defines the kernels' results.

Fast on a CPU means few, plain loads: gathers are one-dimensional with a precomputed index, integers
are divided through float32, and flags are summed by words instead of one by one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int32, Integer, UInt16, UInt32

WORD = 32  # bits of a word of flags


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
        quotient = divide(x, freq, precision)
        x = (quotient << precision) + start + (x - quotient * freq)
        return (x, carry), (word, emit)

    (head, carry), out = lax.scan(push, (head, carry), steps, reverse=True)
    word, emit = (x.swapaxes(0, 1) for x in out)
    return head, word, emit, carry


def divide(x: jax.Array, freq: jax.Array, precision: int) -> jax.Array:
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
    index: Integer[Array, "groups steps lanes"] | None,
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

    def find(load, table, slot):
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

    def pop(carry):
        # On a CPU a turn takes the time that its kernels take to start, so they are few: one array
        # holds all that changes (XLA runs more than seven on several threads). XLA also shares a
        # kernel that reads a large array among threads, which for few lanes takes ten times as
        # long, but not one that updates an array in place: what is loaded is left on a desk.
        state, symbols, desks = carry
        free, taken_up = iter(desks), []

        def load(array, place):
            # XLA itself clamps what a corrupt stream asks for; the promise saves a second clamp.
            loaded = jnp.asarray(array).at[place].get(mode="promise_in_bounds")
            desk = lax.dynamic_update_slice(next(free), loaded.astype(jnp.uint32)[None], (0, 0, 0))
            taken_up.append(desk)
            return desk[0]

        x, size = state[:, :lanes], state[:, lanes:-1].astype(jnp.int32)
        t = state[:, -1:].astype(jnp.int32)
        here = t[0, 0]
        if index is None:
            table = jnp.zeros_like(x, jnp.int32)
        else:
            table = lax.dynamic_index_in_dim(index, here, 1, keepdims=False).astype(jnp.int32)
        slot = (x & ((1 << precision) - 1)).astype(jnp.int32)
        symbol = find(load, table, slot)
        entry = load(flat_entries, table * width + symbol)
        new = ((entry >> 16) + 1) * (x >> precision) + slot.astype(jnp.uint32) - (entry & 0xFFFF)
        x = jnp.where(t * lanes + lane < count[:, None], new, x)
        need = x < 1 << 16
        taken = prefix_sum(need)
        x = jnp.where(need, x << 16 | load(flat_words, first_word + size - taken), x)
        state = jnp.concatenate(
            [x, (size - taken[:, -1:]).astype(jnp.uint32), state[:, -1:] + 1], 1
        )
        symbols = lax.dynamic_update_index_in_dim(symbols, symbol.astype(narrow), here, 0)
        return state, symbols, taken_up

    # Steps without a valid position cost nothing.
    used = jnp.minimum((count.max() + lanes - 1) // lanes, steps)
    # Zeros that are as distributed over devices as states are.
    symbols = jnp.broadcast_to((head & 0).astype(narrow), (steps, groups, lanes))
    size = size.astype(jnp.uint32)[:, None]
    state = jnp.concatenate([head, size, jnp.zeros_like(size)], 1)
    loads = 2 + (1 if directory is not None else (width - 1).bit_length())
    desks = [jnp.broadcast_to(head & 0, (2, groups, lanes))] * loads
    state, symbols, _ = lax.while_loop(
        lambda carry: carry[0][0, -1].astype(jnp.int32) < used, pop, (state, symbols, desks)
    )
    head, size = state[:, :lanes], state[:, lanes].astype(jnp.int32)
    symbols = symbols.swapaxes(0, 1).astype(jnp.int32)
    valid = jnp.arange(steps * lanes).reshape(steps, lanes) < count[:, None, None]
    return jnp.where(valid, symbols, 0), head, size


def prefix_sum(flags: Bool[Array, "*batch n"]) -> Int32[Array, "*batch n"]:
    """Inclusive sums along the last axis: how many flags are set up to each position.

    Flags are bits of words, and a word counts its own by population count. On a CPU this runs twice
    as fast as a cumulative sum of many flags, and compiles in a fifth of the time.
    """
    *batch, count = flags.shape
    size = min(WORD, 1 << max(count - 1, 0).bit_length())
    padded = jnp.pad(flags, [(0, 0)] * len(batch) + [(0, -count % size)])
    bit = np.arange(size, dtype=np.uint32)
    bits = padded.reshape(*batch, -1, size).astype(jnp.uint32) << bit
    words = bits.sum(-1, keepdims=True, dtype=jnp.uint32)
    below = jnp.asarray((np.uint32(2) << bit) - np.uint32(1))  # of 31, all bits: 2**32 wraps to 0
    sums = lax.population_count(words & below).astype(jnp.int32)
    if count > size:
        sums += _before(sums[..., -1])[..., None]
    return sums.reshape(*batch, -1)[..., :count]


def _before(sums: Int32[Array, "*batch n"]) -> Int32[Array, "*batch n"]:
    """The sum of all that come before each."""
    *batch, count = sums.shape
    size = min(WORD, count)
    rows = jnp.pad(sums, [(0, 0)] * len(batch) + [(0, -count % size)])
    rows = rows.reshape(*batch, -1, size)
    inside = (rows[..., None, :] * np.tri(size, k=-1, dtype=np.int32)).sum(-1)
    if count > size:
        inside += _before(rows.sum(-1))[..., None]
    return inside.reshape(*batch, -1)[..., :count]
