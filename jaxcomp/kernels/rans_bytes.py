"""rANS of up to 256 symbols at 12 to 14 bits, for a CPU: a load finds symbol, frequency and offset.

What kernels/rans_lax.py computes, for the case that planes of bytes are: one group, a table per
class of position, and either one byte per symbol or two, each of 16 kinds. A slot s, the low p bits
of a state x, has for class k one entry, at k * 2**p + s of a table that stays in the second cache:

    symbol << 24 | (f - 1) << 12 | s - c      so that  x = f * (x >> p) + (s - c)

and no frequency f is above 4096.

A stream is that of kernels/rans_decode.py but for its order: words[0] is the first that decoding
takes, so words[::-1] is the stack there. Steps are the bound of a loop, not a shape: arrays
are padded to a few sizes, and a program is compiled for each size, not each length.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int32, UInt8, UInt16, UInt32

from jaxcomp.kernels.rans_lax import divide

PRECISIONS = 12, 13, 14
MOST = 1 << 12  # the largest frequency that an entry holds
SYMBOLS = 256
KINDS = 16  # of bytes, where two share a symbol
EMITS, MARKED = 1, 2


def encoding_table(
    freq: UInt32[np.ndarray, "classes 256"], marked: Bool[np.ndarray, " 256"] | None = None
) -> UInt32[np.ndarray, " n"]:
    """(f - 1) << 16 | c of each class and symbol, and the highest bit of those that are marked.

    A symbol of frequency 0 must not occur.
    """
    table = (freq - np.uint32(1)) << 16 | _starts(freq)
    if marked is not None:
        table |= marked.astype(np.uint32) << 31
    return table.reshape(-1)


def decoding_table(freq: UInt32[np.ndarray, "classes 256"]) -> UInt32[np.ndarray, " n"]:
    """The entry of each class and slot."""
    symbol = np.arange(freq.size, dtype=np.uint32) << 24  # and the class, shifted out
    first = symbol.reshape(freq.shape) + ((freq - np.uint32(1)) << 12) - _starts(freq)
    table = np.repeat(first.reshape(-1), freq.reshape(-1)).reshape(len(freq), -1)
    table += np.arange(table.shape[1], dtype=np.uint32)
    return table.reshape(-1)


def _starts(freq):
    return np.cumsum(freq, 1, dtype=np.uint32) - freq


@functools.partial(jax.jit, static_argnames=("paired", "classed"))
def encode(
    head: UInt32[Array, " lanes"],
    values: UInt8[Array, "steps lanes"] | UInt16[Array, "steps lanes"],
    classes: UInt8[Array, "steps lanes"] | UInt8[Array, "1 1"],
    rank: UInt8[Array, " 256"],
    table: UInt32[Array, " n"],
    precision: UInt32[Array, ""],
    count: Int32[Array, ""],
    *,
    paired: bool,
    classed: bool,
) -> tuple[
    UInt32[Array, " lanes"],
    UInt16[Array, "steps lanes"],
    UInt8[Array, "steps lanes"],
]:
    """(head, word, flags): a word is written where a flag has the bit EMITS, first step and first
    lane first; the bit MARKED tells where the symbol is a marked one.

    The first heads are any from 2**16 to 2**17 - 1: decoding returns to them.

    values are bytes, or paired bytes as low | high << 8. rank gives each byte's place in the
    alphabet. Values at count and beyond change nothing, and rows past the last step are not
    looked at.
    """
    steps, lanes = values.shape
    one = jnp.uint32(1)
    no_operation = ((one << precision) - 1) << 16  # a certain symbol
    used = (count + lanes - 1) // lanes
    lane = jnp.arange(lanes)

    def push(i, carry):
        x, word, flags = carry
        t = used - 1 - i
        value = lax.dynamic_index_in_dim(values, t, keepdims=False)
        symbol = _load(rank, value & 0xFF).astype(jnp.int32)
        if paired:
            symbol = symbol | _load(rank, value >> 8).astype(jnp.int32) << 4
        if classed:
            row = lax.dynamic_index_in_dim(classes, t, keepdims=False)
            symbol = row.astype(jnp.int32) << 8 | symbol
        entry = jnp.where(t * lanes + lane < count, _load(table, symbol), no_operation)
        freq, start = (entry >> 16 & 0x7FFF) + 1, entry & 0xFFFF
        emits = x >> 16 >= freq << (16 - precision)
        word = _store(word, t, x.astype(jnp.uint16))
        flag = emits.astype(jnp.uint32) * EMITS | (entry >> 31) * MARKED
        x = jnp.where(emits, x >> 16, x)
        quotient = divide(x, freq, min(PRECISIONS))
        x = (quotient << precision) + start + (x - quotient * freq)
        return x, word, _store(flags, t, flag.astype(jnp.uint8))

    empty = (jnp.zeros((steps, lanes), dtype) for dtype in (jnp.uint16, jnp.uint8))
    return lax.fori_loop(0, used, push, (head, *empty))


@functools.partial(jax.jit, static_argnames=("steps", "paired", "classed"))
def decode(
    head: UInt32[Array, " lanes"],
    words: UInt16[Array, " capacity"],
    classes: UInt8[Array, "steps lanes"] | UInt8[Array, "1 1"],
    table: UInt32[Array, " n"],
    values: UInt16[Array, " 256"],
    precision: UInt32[Array, ""],
    count: Int32[Array, ""],
    *,
    steps: int,
    paired: bool,
    classed: bool,
) -> tuple[
    UInt8[Array, "steps lanes"] | UInt16[Array, "steps lanes"],
    UInt32[Array, " lanes"],
    Int32[Array, ""],
]:
    """(values of the symbols, heads, words taken). A stream that ran dry has taken too many.

    words hold at least as many as there are lanes, whatever a damaged stream asks for.
    """
    lanes = head.shape[0]
    narrow = jnp.uint16 if paired else jnp.uint8
    lane = jnp.arange(lanes)

    def pop(t, carry):
        x, place, out = carry
        slot = x & ((jnp.uint32(1) << precision) - 1)
        if classed:
            row = lax.dynamic_index_in_dim(classes, t, keepdims=False)
            slot = row.astype(jnp.uint32) << precision | slot
        entry = _load(table, slot)
        new = ((entry >> 12 & (MOST - 1)) + 1) * (x >> precision) + (entry & (MOST - 1))
        x = jnp.where(t * lanes + lane < count, new, x)
        need = x < 1 << 16
        taken = _running_sum(need)
        # All that a step takes lies together, and loads from so few stay in the first cache.
        near = lax.dynamic_slice(words, (place,), (lanes,)).astype(jnp.uint32)
        x = jnp.where(need, x << 16 | _load(near, taken - need), x)
        return x, place + taken[-1], _store(out, t, _load(values, entry >> 24).astype(narrow))

    used = (count + lanes - 1) // lanes
    out = jnp.zeros((steps, lanes), narrow)
    x, place, out = lax.fori_loop(0, used, pop, (head, jnp.int32(0), out))
    return out, x, place


def _running_sum(flags):
    """i32[lanes], inclusive: in rows of 4, in 8 such rows, and of those by a triangle. Of the ways
    that were tried the fastest: a sixth of decoding less than by counts of bits."""
    inside = _in_rows(flags.astype(jnp.int32).reshape(-1, 4))
    rows = inside[:, -1].reshape(-1, min(8, inside.shape[0]))
    above = _in_rows(rows)
    below = np.tri(len(rows), k=-1, dtype=np.int32)
    start = above - rows + (above[:, -1] * below).sum(-1)[:, None]
    return (inside + start.reshape(-1, 1)).reshape(-1)


def _in_rows(x):
    for distance in (1, 2, 4):
        if distance < x.shape[1]:
            x += jnp.pad(x[:, :-distance], ((0, 0), (distance, 0)))
    return x


def _load(array, place):
    """XLA itself clamps what a damaged stream asks for; the promise saves a second clamp.

    Places are unsigned: of others, each would be compared with 0.
    """
    return array.at[place.astype(jnp.uint32)].get(mode="promise_in_bounds")


def _store(rows, t, row):
    return lax.dynamic_update_index_in_dim(rows, row, t, 0)
