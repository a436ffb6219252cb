"""Coding concrete arrays on a CPU: the same stream as rans.py writes, by every core.

Groups are independent, so each thread takes a range of them through one compiled program, as each
device would under shard_map. Steps are padded to a few counts per octave, so that messages of many
lengths share a program, and the words are compacted by NumPy, five times as fast as XLA does
on a CPU. A program is compiled for a shape once NumPy has spent on it what compiling takes
(kernels/rans_numpy.py): most shapes are coded once.
"""

import collections
import functools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.base import CapacityError, JaxcompError
from jaxcomp.coding.escape import escape_code, escape_distance, intervals
from jaxcomp.coding.halving import (
    fills_tails,
    narrow,
    split_tail,
    tail_length,
    widen,
    without_zeros,
)
from jaxcomp.coding.layout import lay_out, split_steps
from jaxcomp.coding.stream import INITIAL_HEAD, Stream, choose_lanes, round_up, split_lanes
from jaxcomp.coding.tables import Tables
from jaxcomp.kernels import rans_lax, rans_numpy

SAMPLE = 1 << 14  # symbols looked at to estimate a message's size
# What compiling takes, a turn of NumPy on few lanes, and what each lane adds to it (measured).
COMPILATION, TURN, LANE = 0.3, 3e-5, 4e-8
_spent: collections.Counter[Any] = collections.Counter()  # seconds of NumPy on each shape


def encode(
    tables: Tables,
    symbols: np.ndarray,
    index: np.ndarray | None,
    *,
    lanes: int | None,
    capacity: int | None,
    in_parts: bool,
) -> Stream:
    """rans.encode on host arrays. Raises JaxcompError and CapacityError as it says."""
    symbols, index = _flat(symbols), None if index is None else _flat(index)
    if lanes is None:
        bits = estimate_bits(tables, symbols, index)
        lanes = choose_lanes(bits, whole=not in_parts and fills_tails(bits, symbols.size))
    if index is not None:
        explain_index(tables, index)
    explained = functools.partial(explain, tables, symbols, index)
    tail = 0 if in_parts else tail_length(symbols.size, lanes)
    if not tail:
        return _push(_empty(lanes), tables, symbols, index, capacity, explained)
    first, last = zip(split_tail(symbols, tail), split_tail(index, tail), strict=True)
    below = widen(_push(_empty(lanes // 2), tables, *last, None, explained))
    return _push(below, tables, *first, capacity, explained)._replace(halved=())


def _index_type(tables):
    """Of indices that were checked: they are read twice, and time is what memory takes."""
    return np.min_scalar_type(tables.entries.shape[0] - 1)


def _empty(lanes):
    groups, per_group = split_lanes(lanes)
    return Stream(
        np.full((groups, per_group), INITIAL_HEAD, np.uint32),
        np.zeros((groups, 0), np.uint16),
        np.zeros(groups, np.int32),
        np.zeros(0, np.uint32),
        np.zeros((), np.int32),
        np.asarray(False),
    )


def _push(stream, tables, symbols, index, capacity, explained):
    """The stream with the symbols on top; explained raises what is wrong with them."""
    groups, per_group = stream.head.shape
    steps = round_up(split_steps(symbols.size, groups, per_group))
    padding = np.asarray(tables.offset)[0].astype(symbols.dtype)
    count = _counts(symbols.size, groups, per_group)
    compiled = _is_worth_compiling("encode", tables, (groups, steps, per_group), index)

    def encode_part(part):
        place = functools.partial(lay_out, groups=groups, lanes=per_group, steps=steps, part=part)
        rows = None if index is None else place(index, fill=0, dtype=_index_type(tables))
        plane = place(symbols, fill=padding)
        code = _encode_part if compiled else _encode_by_numpy
        return code(tables, stream.head[part], plane, rows, count[part])

    parts = _by_groups(encode_part, groups, compiled)
    if any(bad for *_, bad in parts):
        explained()
    head = np.concatenate([part[0] for part in parts])
    stacks = [stack for part in parts for stack in part[1]]
    size = stream.size + np.array([len(stack) for stack in stacks], np.int32)
    capacity = stream.size.max() + steps * per_group if capacity is None else capacity
    if size.max() > capacity:
        raise CapacityError(
            f"expected at most {capacity} words per group, got {size.max()}; pass a larger capacity"
        )
    words = np.zeros((groups, capacity), np.uint16)
    for row, old, start, stack in zip(words, stream.words, stream.size, stacks, strict=True):
        row[:start] = old[:start]
        row[start : start + len(stack)] = stack
    escapes = np.concatenate([stream.escapes, *(part[2] for part in parts)])
    size_of_escapes = np.asarray(len(escapes), np.int32)
    return Stream(head, words, size, escapes, size_of_escapes, np.asarray(False))


def decode(
    tables: Tables, stream: Stream, index: np.ndarray | None, shape: tuple[int, ...]
) -> tuple[np.ndarray, Stream]:
    """(symbols, what is left of the stream) on host arrays."""
    if index is not None:
        explain_index(tables, index)
    stream = Stream(*map(np.asarray, stream[:6]), stream.halved)
    if stream.halved is None:
        return _pop(tables, stream, index, shape)
    tail = tail_length(math.prod(shape), stream.head.shape[1])
    first, last = split_tail(index, tail)
    start, stream = _pop(tables, stream, first, (math.prod(shape) - tail,))
    end, stream = _pop(tables, narrow(stream), last, (tail,))
    return np.concatenate([start, end]).reshape(shape), without_zeros(stream)


def _pop(tables, stream, index, shape):
    head, words, size, escapes, escape_size = stream[:5]
    # Where a damaged stream looks, there must be something.
    words = words if words.shape[1] else np.zeros((len(words), 1), np.uint16)
    escapes = escapes if len(escapes) else np.zeros(1, np.uint32)
    groups, per_group = head.shape
    total = math.prod(shape)
    steps = round_up(split_steps(total, groups, per_group))
    count = _counts(total, groups, per_group)
    needed = split_steps(total, groups, per_group)
    index = None if index is None else _flat(index)
    symbols = np.empty((groups, needed, per_group), np.int32)
    outside = np.zeros(symbols.shape if tables.escape else (groups, 0), bool)
    compiled = _is_worth_compiling("decode", tables, (groups, steps, per_group), index)

    def decode_part(part):
        place = functools.partial(lay_out, groups=groups, lanes=per_group, steps=steps, part=part)
        rows = None if index is None else place(index, fill=0, dtype=_index_type(tables))
        planes = head[part], words[part], size[part], rows, count[part]
        out = (_decode if compiled else _decode_by_numpy)(tables, *planes, steps=steps)
        symbols[part] = np.asarray(out[0])[:, :needed]
        if tables.escape:
            outside[part] = np.asarray(out[3])[:, :needed]
        return np.asarray(out[1]), np.asarray(out[2])

    parts = _by_groups(decode_part, groups, compiled)
    head, size = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
    symbols = symbols.reshape(-1)[:total]
    if tables.escape:
        place = np.flatnonzero(outside)
        escape_size = escape_size - np.int32(len(place))
        code = escapes[np.clip(escape_size + np.arange(len(place)), 0, len(escapes) - 1)]
        # The escape column itself is already in the symbol; the sum wraps as int32 does.
        symbols[place] += escape_distance(tables, code) - np.int32(tables.entries.shape[1] - 1)
    return symbols.reshape(shape), stream._replace(head=head, size=size, escape_size=escape_size)


def estimate_bits(tables: Tables, symbols: np.ndarray, index: np.ndarray | None) -> float:
    """The ideal size of a message in bits, from at most SAMPLE evenly spaced symbols."""
    if not symbols.size:
        return 0.0
    stride = -(-symbols.size // SAMPLE)
    entries, offset = np.asarray(tables.entries), np.asarray(tables.offset)
    table = np.zeros(1, np.int32) if index is None else index[::stride].clip(0, len(entries) - 1)
    column = symbols[::stride].astype(np.int64) - offset[table]
    width = entries.shape[1]
    # What lies outside a table takes its last column: the escape.
    column = np.where((column >= 0) & (column < width), column, width - 1)
    freq = (entries[table, column] >> 16) + 1.0
    return float((tables.precision - np.log2(freq)).mean() * symbols.size)


def explain_index(tables: Tables, index: np.ndarray) -> None:
    """Raise JaxcompError for the first index out of range, if there is one."""
    count = tables.entries.shape[0]
    if index.size and index.view(np.uint32).max() >= count:  # as unsigned, below 0 is too large
        bad = np.flatnonzero((index < 0) | (index >= count))[0]
        raise JaxcompError(
            f"index must be 0 to {count - 1}, got {index.flat[bad]} at position {bad}"
        )


def explain(tables: Tables, symbols: np.ndarray, index: np.ndarray | None) -> None:
    """Raise JaxcompError for the first symbol or index out of range, if there is one."""
    width = tables.entries.shape[1]
    if index is not None:
        explain_index(tables, index)
    if tables.escape:
        return
    table = 0 if index is None else index
    low = np.broadcast_to(np.asarray(tables.offset)[table], symbols.shape)
    bad = np.flatnonzero(
        (symbols < low) | (symbols.astype(np.int64) >= low.astype(np.int64) + width)
    )
    if len(bad):
        first = low.flat[bad[0]]
        raise JaxcompError(
            f"expected symbols {first} to {first + width - 1}, got {symbols.flat[bad[0]]} at "
            f"position {bad[0]}; build the tables with escape=True to code any int32"
        )


def _is_worth_compiling(what, tables, shape, index):
    """Whether NumPy has already taken longer for this shape than compiling does."""
    groups, steps, lanes = shape
    key = (what, shape, tables.entries.shape, tables.precision, index is None)
    _spent[key] += steps * (TURN + LANE * groups * lanes)
    return _spent[key] > COMPILATION or tables.directory is None


def _encode_by_numpy(tables, head, symbols, index, count):
    """_encode_part, without a compiled program."""
    entries, offset = np.asarray(tables.entries), np.asarray(tables.offset)
    _, steps, lanes = symbols.shape
    distance = symbols - (offset[0] if index is None else offset[index])
    outside = distance.view(np.uint32) >= entries.shape[1] - tables.escape
    column = np.where(outside, entries.shape[1] - 1, distance)
    plane = entries[0, column] if index is None else entries[index, column]
    place = np.arange(steps * lanes).reshape(steps, lanes)
    no_operation = np.uint32(((1 << tables.precision) - 1) << 16)
    plane = np.where(place < count[:, None, None], plane, no_operation)
    head, word, emit = rans_numpy.encode(head, plane, precision=tables.precision)
    codes = np.zeros(0, np.uint32)
    if tables.escape:
        beyond = distance[outside]
        beyond = np.where(beyond >= 0, beyond - np.int32(entries.shape[1] - 1), beyond)
        codes = (beyond << 1 ^ beyond >> 31).view(np.uint32)
    return head, _stacks(word, emit), codes, bool(outside.any() and not tables.escape)


def _decode_by_numpy(tables, head, words, size, index, count, *, steps):
    entries, directory, offset = map(np.asarray, (tables.entries, tables.directory, tables.offset))
    column, head, size = rans_numpy.decode(
        head,
        words,
        size,
        (entries, directory),
        index,
        count,
        precision=tables.precision,
        steps=steps,
    )
    outside = column == entries.shape[1] - 1 if tables.escape else None
    return column + (offset[0] if index is None else offset[index]), head, size, outside


def _encode_part(tables, head, symbols, index, count):
    """(head, stack of each group, escape codes, whether anything was out of range)."""
    head, word, emit, escapes, bad = _encode(tables, head, symbols, index, count)
    codes = np.zeros(0, np.uint32)
    if escapes is not None:
        code, outside = (np.asarray(x).reshape(-1) for x in escapes)
        codes = np.compress(outside, code)
    return np.asarray(head), _stacks(np.asarray(word), np.asarray(emit)), codes, bool(bad)


def _stacks(word, emit):
    """What each group emitted, last step and last lane first."""
    pairs = zip(word, emit, strict=True)
    return [np.compress(e.reshape(-1), w.reshape(-1))[::-1] for w, e in pairs]


@jax.jit
def _encode(tables, head, symbols, index, count):
    groups, steps, lanes = symbols.shape
    no_operation = jnp.uint32(((1 << tables.precision) - 1) << 16)
    lane = jnp.arange(lanes)

    def interval(bad, step):
        # Looked up inside the loop, the intervals never leave the cache.
        t, symbol, table = step
        entry, _, wrong = intervals(tables, symbol, _as_int32(table))
        return bad | wrong, jnp.where(t * lanes + lane < count[:, None], entry, no_operation)

    bad = jnp.zeros((groups, lanes), bool)
    table = None if index is None else index.swapaxes(0, 1)
    planes = (jnp.arange(steps), symbols.swapaxes(0, 1), table)
    head, word, emit, bad = rans_lax.encode_steps(
        head, planes, interval, bad, precision=tables.precision
    )
    escapes = None
    if tables.escape:
        index = _as_int32(index)
        outside = intervals(tables, symbols, index)[1]
        escapes = (escape_code(tables, symbols, index), outside)
    return head, word, emit, escapes, bad.any()


@functools.partial(jax.jit, static_argnames="steps")
def _decode(tables, head, words, size, index, count, *, steps):
    column, head, size = rans_lax.decode(
        head,
        words,
        size,
        (tables.entries, tables.directory),
        index,
        count,
        precision=tables.precision,
        steps=steps,
    )
    offset = tables.offset[0] if index is None else tables.offset[index]
    outside = column == tables.entries.shape[1] - 1 if tables.escape else None
    return column + offset, head, size, outside


def _as_int32(index):
    return None if index is None else index.astype(jnp.int32)


def _flat(x):
    return np.ascontiguousarray(x).reshape(-1)


def _counts(total, groups, lanes):
    """Symbols in each group: all but the last of them are full."""
    each = split_steps(total, groups, lanes) * lanes
    return np.clip(total - each * np.arange(groups), 0, each).astype(np.int32)


@functools.cache
def _threads():
    return ThreadPoolExecutor(_parts(), thread_name_prefix="jaxcomp")


def _parts():
    """Two for each core: while one copies arrays, another computes."""
    return 2 * (os.cpu_count() or 1)


def _by_groups(function, groups, in_threads):
    """function of equal ranges of groups, in threads; or of all.

    Even one range: a thread of its own is not inside what the caller may be tracing.
    """
    if not in_threads:
        return [function(slice(groups))]
    parts = min(groups, _parts())
    ranges = [slice(i * groups // parts, (i + 1) * groups // parts) for i in range(parts)]
    return list(_threads().map(function, ranges))
