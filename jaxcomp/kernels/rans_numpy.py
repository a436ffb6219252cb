"""The NumPy twin of rans_lax: a turn takes tens of microseconds, and nothing is compiled.

A compiled program takes a third of a second to make, as long as thousands of turns take here: for
messages of a shape that is coded only a few times. Turns are whole-array operations on all
groups and lanes, into arrays that stay.
"""

import numpy as np
from jaxtyping import Bool, Int32, Integer, UInt16, UInt32


def encode(
    head: UInt32[np.ndarray, "groups lanes"],
    start_freq: UInt32[np.ndarray, "groups steps lanes"],
    *,
    precision: int,
) -> tuple[
    UInt32[np.ndarray, "groups lanes"],
    UInt16[np.ndarray, "groups steps lanes"],
    Bool[np.ndarray, "groups steps lanes"],
]:
    """(head, word, emit) of rans_lax.encode."""
    entries = np.ascontiguousarray(start_freq.swapaxes(0, 1))  # [steps, groups, lanes]
    freq, start = (entries >> 16) + np.uint32(1), entries & np.uint32(0xFFFF)
    limit = freq << np.uint32(16 - precision)
    gap = np.uint32(1 << precision) - freq
    x, some, quotient = head.copy(), np.empty_like(head), np.empty_like(head)
    word, emit = np.empty(entries.shape, np.uint16), np.empty(entries.shape, bool)
    for t in reversed(range(len(entries))):
        np.right_shift(x, 16, out=some)
        np.greater_equal(some, limit[t], out=emit[t])
        word[t] = x
        np.multiply(emit[t], np.uint32(16), out=some)
        x >>= some  # by 16 where a word is emitted: quicker than a mask
        # (x // f << p) + c + x % f, with x % f = x - x // f * f.
        np.floor_divide(x, freq[t], out=quotient)
        quotient *= gap[t]
        x += start[t]
        x += quotient
    return x, word.swapaxes(0, 1), emit.swapaxes(0, 1)


def decode(
    head: UInt32[np.ndarray, "groups lanes"],
    words: UInt16[np.ndarray, "groups capacity"],
    size: Int32[np.ndarray, " groups"],
    tables: tuple[UInt32[np.ndarray, "tables symbols"], UInt32[np.ndarray, "tables buckets"]],
    index: Integer[np.ndarray, "groups steps lanes"] | None,
    count: Int32[np.ndarray, " groups"],
    *,
    precision: int,
    steps: int,
) -> tuple[
    Int32[np.ndarray, "groups steps lanes"],
    UInt32[np.ndarray, "groups lanes"],
    Int32[np.ndarray, " groups"],
]:
    """(column of each symbol, head, size) of rans_lax.decode, for tables with a directory.

    What a damaged stream asks for outside its words is another word.
    """
    entries, directory = tables
    groups, lanes = head.shape
    width, buckets = entries.shape[1], directory.shape[1]
    entries, directory, stack = entries.reshape(-1), directory.reshape(-1), words.reshape(-1)
    freq, start = (entries >> 16) + np.uint32(1), entries & np.uint32(0xFFFF)
    mask = np.uint32((1 << precision) - 1)
    below = ((np.uint32(2) << np.arange(16, dtype=np.uint32)) - np.uint32(1)) & np.uint32(0xFFFF)
    last = np.arange(groups)[:, None] * words.shape[1] + size[:, None].astype(np.int64)
    lane, full = np.arange(lanes), int(count.min(initial=0)) // lanes
    columns = np.zeros((steps, groups, lanes), np.int32)
    x = head.copy()
    for t in range(min(steps, -(-int(count.max(initial=0)) // lanes))):
        slot = x & mask
        bucket, column = slot >> 4, columns[t]
        if index is not None:
            table = index[:, t].astype(np.int64)
            bucket = table * buckets + bucket
        found = directory[bucket]
        rank = np.bitwise_count(found & below[slot & 15])
        np.bitwise_and((found >> 16) + rank, 0xFFFF, out=column, casting="unsafe")
        place = column if index is None else table * width + column
        new = freq.take(place, mode="clip") * (x >> np.uint32(precision))
        new += slot
        new -= start.take(place, mode="clip")
        if t >= full:
            valid = t * lanes + lane < count[:, None]
            new = np.where(valid, new, x)
            column *= valid
        need = new < 1 << 16
        taken = np.cumsum(need, 1)
        more = stack.take(last - taken, mode="clip")
        x = np.where(need, new << np.uint32(16) | more, new)
        last = last - taken[:, -1:]
    size = last[:, 0] - np.arange(groups) * words.shape[1]
    return columns.swapaxes(0, 1), x, size.astype(np.int32)
