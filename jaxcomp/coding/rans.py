"""Symbols <-> streams, under any trace: encode, decode, and their stack form push, pop.

n symbols fill G groups of L lanes in T = ceil(n / (G L)) steps, in C order: symbol i sits at

    group i // (T L),  step i // L % T,  lane i % L

so that a group holds a run of consecutive symbols and can be decoded, or sharded, by itself. The
positions left over at the end code a symbol of probability one, which leaves a state unchanged.
Up to 64 lanes, the last symbols of a whole message do so on half of the lanes (halving.py).

Called on concrete arrays on a CPU, encode and decode take the way of concrete.py: the same layout
and the same bytes, with lanes chosen from the message, and every core at work.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, Int32

from jaxcomp.base import CapacityError, JaxcompError
from jaxcomp.coding import concrete
from jaxcomp.coding.escape import escape_code, escape_distance, intervals
from jaxcomp.coding.halving import (
    TAIL,
    narrow,
    split_tail,
    tail_length,
    widen,
    without_zeros,
)
from jaxcomp.coding.layout import as_int32, lay_out, split_steps
from jaxcomp.coding.stream import (
    INITIAL_HEAD,
    Stream,
    check_finished,
    choose_lanes,
    split_lanes,
)
from jaxcomp.coding.tables import Tables
from jaxcomp.kernels import rans_decode, rans_encode
from jaxcomp.kernels.rans_lax import prefix_sum

Integers = Int[Array | np.ndarray, "..."]
Symbols = Int32[Array | np.ndarray, "..."]


def encode(
    tables: Tables,
    symbols: Integers,
    index: Integers | None = None,
    *,
    lanes: int | None = None,
    capacity: int | None = None,
    in_parts: bool = False,
) -> Stream:
    """The stream of symbols: int32 of any shape, index (same shape) choosing the table of each.

    lanes is a power of two; None chooses it from the ideal size of a concrete message, or from the
    symbol count under a trace. capacity is in words per group; None is the worst case. With
    tables.escape any int32 can be coded; without, a symbol outside its table, like an index
    outside the tables, sets `overflow` under a trace. in_parts: as if pushed, the symbols may be
    popped in several arrays of whole steps; 2 to 64 lanes then cost a byte more each.

    Raises on concrete input: JaxcompError for a symbol or an index out of range or of another
    shape, CapacityError if the words do not fit.
    """
    symbols, index = _check(tables, symbols, index)
    if _on_host(tables, symbols, index):
        symbols, index = np.asarray(symbols), None if index is None else np.asarray(index)
        return concrete.encode(
            tables, symbols, index, lanes=lanes, capacity=capacity, in_parts=in_parts
        )
    lanes = choose_lanes(symbols.size) if lanes is None else lanes
    stream = _encode(tables, symbols, index, lanes, capacity, in_parts)
    if not _traced(stream) and bool(stream.overflow):
        concrete.explain(tables, np.asarray(symbols), None if index is None else np.asarray(index))
        raise CapacityError(
            f"expected at most {stream.words.shape[1]} words per group, got "
            f"{int(stream.size.max())}; pass a larger capacity"
        )
    return stream


def decode(
    tables: Tables,
    stream: Stream,
    index: Integers | None = None,
    *,
    shape: tuple[int, ...] | None = None,
) -> Symbols:
    """The symbols of a stream, of the shape of index; without index, shape says how many.

    Raises CorruptStream when, on concrete values, the stream does not end where an encoder began.
    Under a trace nothing can be raised: use pop, and look at is_finished(stream).
    """
    index, shape = _check_shape(tables, index, shape)
    if _on_host(tables, stream, index):
        index = None if index is None else np.asarray(index)
        symbols, rest = concrete.decode(tables, stream, index, shape)
    else:
        symbols, rest = _pop(stream, tables, index, shape)
    if not _traced(rest):
        check_finished(rest)
    return symbols


def push(
    stream: Stream,
    tables: Tables,
    symbols: Integers,
    index: Integers | None = None,
) -> Stream:
    """The stream with symbols on top of what it held; pop returns the last array pushed first.

    The capacities of the stream are fixed: what does not fit sets `overflow`.
    """
    return push_each(stream, [(tables, symbols, index)])


def push_each(stream: Stream, parts: Sequence[tuple[Tables, Integers, Integers | None]]) -> Stream:
    """What push makes of (tables, symbols, index) one after the other, in one pass.

    Raises JaxcompError for tables of several precisions.
    """
    if len(found := {tables.precision for tables, *_ in parts}) != 1:
        raise JaxcompError(f"expected tables of one precision, got {sorted(found)}")
    return _push(stream, [(tables, *_check(tables, *message)) for tables, *message in parts])


def pop(
    stream: Stream,
    tables: Tables,
    index: Integers | None = None,
    *,
    shape: tuple[int, ...] | None = None,
    count: Integers | None = None,
) -> tuple[Symbols, Stream]:
    """(symbols, what was below them). More than was pushed makes a size negative.

    What encode made of a whole message, without in_parts, is popped whole: of another shape than it
    had, is_finished is false of the rest.

    count: how many of them were pushed, i32 of one group, if not all; what others are is not said.
    On a CPU they take no time.
    """
    index, shape = _check_shape(tables, index, shape)
    return _pop(stream, tables, index, shape, count)


# Arrays enter a program as arguments, whatever they were: one compilation serves them all.


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _encode(tables, symbols, index, lanes, capacity, in_parts):
    groups, per_group = split_lanes(lanes)
    tail = 0 if in_parts else tail_length(symbols.size, lanes)
    if not tail:
        head = jnp.full((groups, per_group), INITIAL_HEAD, jnp.uint32)
        return _code([(tables, symbols, index)], head, capacity)
    first, last = zip(split_tail(symbols, tail), split_tail(index, tail), strict=True)
    steps = split_steps(first[0].size, groups, per_group)
    capacity = (steps + TAIL) * lanes if capacity is None else capacity
    below = _encode(tables, *last, lanes // 2, max(capacity, TAIL * lanes), True)
    if tables.escape:
        below = below._replace(escapes=jnp.pad(below.escapes, (0, first[0].size)))
    stream = _onto(widen(below), [(tables, *first)])
    overflow = stream.overflow | (stream.size > capacity).any()
    return stream._replace(words=stream.words[:, :capacity], overflow=overflow, halved=())


@jax.jit
def _push(stream, parts):
    if stream.halved is not None:
        raise JaxcompError("expected a stream to push onto, got one of encode; pass in_parts=True")
    return _onto(stream, parts)


def _onto(stream, parts):
    """The stream with what pushing the parts adds."""
    new = _code(parts, stream.head, None)
    size, escape_size = stream.size + new.size, stream.escape_size + new.escape_size
    overflow = stream.overflow | new.overflow | (size > stream.words.shape[1]).any()
    words = jax.vmap(_append)(stream.words, stream.size, new.words, new.size)
    escapes = stream.escapes
    if any(tables.escape for tables, *_ in parts):
        overflow |= escape_size > escapes.shape[0]
        escapes = _append(escapes, stream.escape_size, new.escapes, new.escape_size)
    return Stream(new.head, words, size, escapes, escape_size, overflow)


def _code(parts, head, capacity):
    """The words that pushing symbols onto these heads emits, by themselves."""
    groups, lanes = head.shape
    precision = parts[0][0].precision
    no_operation = jnp.uint32(((1 << precision) - 1) << 16)
    planes, bad, codes = [], jnp.zeros((), bool), []
    for tables, symbols, index in parts:
        entries, outside, wrong = intervals(tables, symbols, index)
        planes.append(lay_out(entries.reshape(-1), groups, lanes, fill=no_operation))
        bad |= wrong.any()
        if tables.escape:
            codes.append((escape_code(tables, symbols, index).reshape(-1), outside.reshape(-1)))
    # Steps are visited from the last on: what is pushed first comes last.
    plane = jnp.concatenate(planes[::-1], 1)
    capacity = plane.shape[1] * lanes if capacity is None else capacity
    head, words, size = rans_encode.run(head, plane, capacity, precision=precision)
    escapes, escape_size = jnp.zeros(0, jnp.uint32), jnp.zeros((), jnp.int32)
    if codes:
        escapes, escape_size = _compact(*map(jnp.concatenate, zip(*codes, strict=True)))
    return Stream(head, words, size, escapes, escape_size, bad | (size > capacity).any())


@functools.partial(jax.jit, static_argnums=3)
def _pop(stream, tables, index, shape, used=None):
    groups, lanes = stream.head.shape
    count = math.prod(shape)
    if stream.halved is not None:
        if used is not None:
            raise JaxcompError("expected a stream to pop from in parts; encode with in_parts=True")
        tail = tail_length(count, lanes)
        first, last = split_tail(index, tail)
        start, stream = _pop(stream._replace(halved=None), tables, first, (count - tail,))
        end, stream = _pop(narrow(stream), tables, last, (tail,))
        return jnp.concatenate([start, end]).reshape(shape), without_zeros(stream)
    steps = split_steps(count, groups, lanes)
    plane = None if index is None else lay_out(index.reshape(-1), groups, lanes, fill=0)
    column, head, size = rans_decode.run(
        stream.head,
        stream.words,
        stream.size,
        (tables.entries, tables.directory),
        plane,
        count if used is None else jnp.full(groups, used, jnp.int32),
        precision=tables.precision,
        steps=steps,
    )
    column = column.reshape(-1)[:count].reshape(shape)
    offset = tables.offset[0] if index is None else tables.offset[index]
    symbols = column + offset
    escape_size = stream.escape_size
    if tables.escape:
        outside = column == tables.entries.shape[1] - 1
        number = outside.sum(dtype=jnp.int32)
        escape_size = escape_size - number
        if stream.escapes.shape[0]:
            symbols = _with_escapes(symbols, outside, escape_size, stream, tables, offset)
    return symbols, stream._replace(head=head, size=size, escape_size=escape_size)


def _with_escapes(symbols, outside, start, stream, tables, offset):
    """symbols, and in place of those outside the tables what the escapes from `start` on say."""
    rank = prefix_sum(outside.reshape(-1)).reshape(outside.shape) - 1
    code = jnp.asarray(stream.escapes).at[jnp.maximum(start + rank, 0)].get(mode="clip")
    return jnp.where(outside, offset + escape_distance(tables, code), symbols)


def _append(buffer, size, new, count):
    """buffer with new[:count] written from position size; what does not fit is dropped."""
    room, length = buffer.shape[0], min(buffer.shape[0], new.shape[0])
    new = new[:length]
    start = jnp.clip(size, 0, room - length)
    place = jnp.arange(length) + start - size
    old = lax.dynamic_slice(buffer, (start,), (length,))
    fresh = jnp.where((place >= 0) & (place < count), jnp.roll(new, size - start), old)
    return lax.dynamic_update_slice(buffer, fresh, (start,))


def _compact(values, mask):
    """(the values where mask holds, in order, zeros behind; how many)."""
    rank = prefix_sum(mask)
    place = jnp.where(mask, rank - 1, values.shape[0])
    count = rank[-1] if values.shape[0] else jnp.zeros((), jnp.int32)
    return jnp.zeros_like(values).at[place].set(values, mode="drop"), count


def _check(tables, symbols, index):
    index, _ = _check_shape(tables, index, symbols.shape)
    return as_int32(symbols, "symbols"), index


def _check_shape(tables, index, shape):
    if index is None:
        if shape is None:
            raise JaxcompError("expected index or shape=, got neither; how many symbols are there?")
        if tables.entries.shape[0] != 1:
            raise JaxcompError(
                f"{tables.entries.shape[0]} tables need an index that chooses one per symbol"
            )
        if any(n < 0 for n in shape):
            raise JaxcompError(f"expected a shape, got {tuple(shape)}")
        return None, tuple(shape)
    if shape is not None and tuple(shape) != tuple(index.shape):
        raise JaxcompError(f"expected an index of shape {tuple(shape)}, got {tuple(index.shape)}")
    return as_int32(index, "index"), tuple(index.shape)


def _traced(arrays):
    """Whether anything can be looked at only later."""
    return any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(arrays))


def _on_host(*arrays):
    """Whether every array is concrete and lies in this host's memory."""

    def here(x):
        return isinstance(x, np.ndarray | np.generic) or (
            isinstance(x, jax.Array)
            and not isinstance(x, jax.core.Tracer)
            and x.is_fully_addressable
            and all(device.platform == "cpu" for device in x.devices())
        )

    return all(map(here, jax.tree.leaves(arrays)))
