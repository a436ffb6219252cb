"""staircase: bits by age; tokens are rounded to fewer as they grow older.

    | sinks | 2 bits: all older chunks ...... | 4 bits: a ring of chunks | 8 bits: a ring | window |

A chunk that leaves a step is read there, rounded to the bits of the next, and takes the place of
the chunk that leaves that. Attention favours the last tokens, so these are worth more bits, and the
first ones, which stay as they are (Xiao et al., Efficient streaming language models with attention
sinks, 2024, section 3).

The staircase of bits is that of The nature of mathematical modeling and probabilistic optimization
engineering in generative AI, 2024 (its SAQ). How tokens are rounded is KIVI's way: keys by channel
over the tokens of a chunk, values by token.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.base import KVCache, UnsupportedInput
from jaxcomp.formats.format import Format
from jaxcomp.formats.qtensor import QTensor, quantize
from jaxcomp.kvcache import blockwise
from jaxcomp.kvcache.blockwise import NOWHERE, Segment
from jaxcomp.kvcache.chunked import as_bits, compiled, from_bits, sometimes, written
from jaxcomp.kvcache.inputs import check_counts, check_init, check_queries, check_tokens
from jaxcomp.kvcache.once import once

AXES = -2, -1  # along which the grids of keys and of values run, of [..., tokens, size]


class Stairs(NamedTuple):
    """steps: (keys, values) of each, the youngest first: QTensors f[batch, heads, chunks, group,
    size], bfloat16 as u16, the last by age and the others rings; the rest as in chunked.py."""

    steps: tuple[tuple[QTensor, QTensor], ...]
    window_keys: jax.Array
    window_values: jax.Array
    sink_keys: jax.Array
    sink_values: jax.Array
    length: jax.Array
    start: jax.Array
    overflow: jax.Array


@once
def staircase(
    slots: int,
    *,
    bits: tuple[int, ...] = (8, 4, 2),
    chunks: tuple[int, ...] = (4, 8),
    group: int = 32,
    window: int = 0,
    sinks: int = 1,
    scale: str = "bfloat16",
) -> KVCache:
    """bits of each step, the youngest first, and the chunks of `group` tokens in all but the last,
    which has room for all others. The window holds up to `group` tokens more, as they are, and so
    are the first `sinks`: one takes 9 % off the error of attention in MiniLM-L6 and 16 % off the
    divergence of stories260K, for 0.03 and 0.06 bits; four are no better."""
    check_counts(slots=slots, group=group)
    check_counts(0, window=window, sinks=sinks)
    if len(chunks) != len(bits) - 1 or any(type(n) is not int or n < 1 for n in chunks):
        raise UnsupportedInput(
            f"expected chunks of all steps but the last, each at least 1, got {chunks} for bits of "
            f"{bits}; (4, 8) for (8, 4, 2), say"
        )
    if any(b not in (1, 2, 3, 4, 8) for b in bits) or group % 2:
        raise UnsupportedInput(
            f"expected bits of 1, 2, 3, 4, 8 and an even group, got {bits} and {group}; (8, 4, 2) "
            "and 32 serve"
        )
    formats = [Format(b, scale=scale, zero=scale, name=f"uint{b}") for b in bits]
    waiting = window + group
    whole = max(0, -(-(slots - sinks - window) // group))
    room = *chunks, max(0, whole - sum(chunks))
    ahead = [sum(room[:step]) for step in range(len(room))]  # chunks younger than a step's youngest

    def kinds(batch, heads, size, dtype):
        like = jax.ShapeDtypeStruct((batch, heads, 1, group, size), dtype)
        return [jax.eval_shape(lambda x, f=f: _encode(f, (x, x)), like) for f in formats]

    def init(batch, heads, size, dtype=jnp.float32):
        check_init(batch, heads, size, slots, dtype)

        def stored(kind, count):
            def zeros(x):
                dtype = jax.eval_shape(as_bits, x).dtype
                return jnp.zeros((batch, heads, count, *x.shape[3:]), dtype)

            return jax.tree.map(zeros, kind)

        steps = map(stored, kinds(batch, heads, size, dtype), room)
        lengths = waiting, waiting, sinks, sinks
        kept = (jnp.zeros((batch, heads, n, size), dtype) for n in lengths)
        count = jnp.zeros(batch, jnp.int32)
        return Stairs(tuple(steps), *kept, count, count, jnp.zeros(batch, bool))

    def append(state, k, v, *, queries=None, lengths=None):
        batch, heads, _, size = state.window_keys.shape
        dtype = state.window_keys.dtype
        lengths = check_tokens(k, v, lengths, batch, heads, size, dtype, slots)
        new, n = [x.swapaxes(1, 2) for x in (k, v)], k.shape[1]  # [b, h, n, d]
        end = state.length + lengths
        before, after = _flushed(state.length), _flushed(end)
        index = jnp.arange(n)
        there, places = index < lengths[:, None], state.length[:, None] + index
        sink = jnp.where(there & (places < sinks), places, sinks)
        target = places - sinks - (before * group)[:, None]
        target = jnp.where(there & (places >= sinks), target, waiting + n)
        more = [(0, 0), (0, 0), (0, n), (0, 0)]
        old = [jnp.pad(x, more) for x in (state.window_keys, state.window_values)]
        buffers = [written(x, y, target) for x, y in zip(old, new, strict=True)]
        count = -(-n // group)  # of chunks that may leave the window
        # Those that a step's ring loses for them: the oldest of it, and of what came in behind.
        shapes = kinds(batch, heads, size, dtype)
        leaving = [
            _taken(step, kind, (before - younger)[:, None] + jnp.arange(min(count, held)), held)
            for step, kind, younger, held in zip(state.steps, shapes, ahead, chunks, strict=False)
        ]

        def moved(buffers, leaving):
            """What comes into each step."""
            coming = [x[:, :, : count * group] for x in buffers]
            coming = [x.reshape(batch, heads, count, group, size) for x in coming]
            found = []
            for step, format in enumerate(formats):
                packed = _encode(format, coming)
                found.append(jax.tree.map(as_bits, packed))
                if step < len(leaving):
                    both = zip(leaving[step], packed, strict=True)
                    coming = [
                        jnp.concatenate([x, y.dense()], 2)[:, :, :count].astype(dtype)
                        for x, y in both
                    ]
            return tuple(found)

        if n < group:  # most of the time nothing leaves; stores stay out of cond, which copies
            found = sometimes(jnp.any(after > before), moved, buffers, leaving)
        else:
            found = moved(buffers, leaving)
        steps = []
        for step, packed, younger, held in zip(state.steps, found, ahead, room, strict=True):
            chunk = (before - younger)[:, None] + jnp.arange(count)
            stays = (chunk >= 0) & (chunk < (after - younger)[:, None])
            stays &= chunk >= (after - younger - held)[:, None]  # the others go on to the next
            at = jnp.where(stays, chunk % max(held, 1), held)
            steps.append(jax.tree.map(lambda x, y, at=at: written(x, y, at), step, packed))
        here = (after - before)[:, None] * group + jnp.arange(waiting)
        kept = (
            jnp.take_along_axis(x, here[:, None, :, None], 2, mode="fill", fill_value=0)
            for x in buffers
        )
        first = zip((state.sink_keys, state.sink_values), new, strict=True)
        kept = *kept, *(written(x, y, sink) for x, y in first)
        return Stairs(tuple(steps), *kept, end, state.length, state.overflow | (end > slots))

    def attend(state, q, *, rope=None, fresh=None):
        batch, heads, _, size = state.window_keys.shape
        dtype = state.window_keys.dtype
        check_queries(q, batch, heads, size)
        flushed = _flushed(state.length)

        def ring(step, kind, younger, held):
            end = flushed - younger

            def read(start, count):
                cut = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, count, 2), step)
                k, v = (x.reshape(batch, heads, -1, size) for x in _read(cut, kind))
                slot = start + jnp.arange(count)
                newest = end[:, None] - 1
                chunk = newest - (newest - slot) % held  # the last that took the slot
                place = chunk[..., None] * group + jnp.arange(sinks, sinks + group)
                place = place.reshape(batch, -1)
                known = jnp.repeat((chunk >= 0) & (newest >= 0), group, 1)
                return k, v, jnp.where(known, place, NOWHERE)[:, None]

            return Segment(read, held, group, jnp.clip(end.max(), 0, held))

        def whole_tokens(keys, values, first, end):
            def read(start, count):
                k, v = (lax.dynamic_slice_in_dim(x, start, count, 2) for x in (keys, values))
                place = (first + start)[:, None] + jnp.arange(count)
                return k, v, jnp.where(place < end[:, None], place, NOWHERE)[:, None]

            return Segment(read, keys.shape[2], 1, jnp.clip((end - first).max(), 0, keys.shape[2]))

        shapes = kinds(batch, heads, size, dtype)
        rows = zip(state.steps, shapes, ahead, room, strict=True)
        end = jnp.minimum(state.length, sinks)
        segments = [whole_tokens(state.sink_keys, state.sink_values, 0 * end, end)]
        segments += [ring(*row) for row in rows][::-1]
        waits = state.window_keys, state.window_values
        segments.append(whole_tokens(*waits, sinks + flushed * group, state.length))
        return blockwise.answer(state, q, segments, heads, rope, fresh, dtype), state

    def _flushed(length):
        """Chunks that are full and out of the window, of sequences of this length."""
        return jnp.clip((length - sinks - window) // group, 0, whole)

    return compiled(KVCache(init, append, attend, "staircase " + " ".join(map(str, bits))))


def _encode(format: Format, pair: Any) -> tuple[QTensor, QTensor]:
    keys, values = (quantize(x, format, axes=axis) for x, axis in zip(pair, AXES, strict=True))
    return keys, values


def _read(step: Any, kind: Any) -> list[jax.Array]:
    """Keys and values [batch, heads, chunks, group, size] of what a step holds."""
    leaves = jax.tree.map(lambda x, like: from_bits(x, like.dtype), step, kind)
    return [leaf.dense() for leaf in leaves]


def _taken(step: Any, kind: Any, chunk: jax.Array, held: int) -> list[jax.Array]:
    """_read of the chunks i32[batch, n] of a ring of `held`."""
    cut = jax.vmap(lambda x, slot: x[:, slot])
    return _read(jax.tree.map(lambda x: cut(x, chunk % held), step), kind)
