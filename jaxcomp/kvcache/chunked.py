"""Chunks: tokens gather in a window as they are, and leave it for packed storage in groups.

    | sinks: the first few | packed chunks of `group` tokens ............ | window: the last ones |

The first `sinks` tokens stay as they are. So does a window of the last `window` tokens, and up to
group - 1 more that wait for their chunk to fill. Where a chunk is one token and there is no window,
a token is packed as it comes. Chunks are any leaf of jaxcomp.formats, or an array, whose parts
begin with the axes [batch, heads, chunks]: a token format is a pair of functions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.base import KVCache
from jaxcomp.formats.leaf import dense
from jaxcomp.kernels.dispatch import align
from jaxcomp.kvcache import blockwise
from jaxcomp.kvcache.blockwise import NOWHERE, Segment
from jaxcomp.kvcache.inputs import check_counts, check_init, check_queries, check_tokens
from jaxcomp.kvcache.packed_attention import by_kernel
from jaxcomp.kvcache.scores import Score, Seen, by_head

Encode = Callable[[jax.Array], Any]


class Chunked(NamedTuple):
    """keys and values: leaves or arrays f[batch, heads, chunks, group, size], floats of 16 bits as
    u16; the window and sinks f[batch, heads, tokens, size]; length i32[batch] of tokens so far, of
    which those from `start` on were appended last; overflow bool[batch]: whether some found no
    room, and are lost; scores: of the tokens in the window, and of heads, where they are kept."""

    keys: Any
    values: Any
    window_keys: jax.Array
    window_values: jax.Array
    sink_keys: jax.Array
    sink_values: jax.Array
    length: jax.Array
    start: jax.Array
    overflow: jax.Array
    scores: Any = ()


def chunked(
    slots: int,
    encode_keys: Encode,
    encode_values: Encode,
    *,
    group: int = 1,
    window: int = 0,
    sinks: int = 0,
    decode_keys: Callable[[Any], jax.Array] = dense,
    decode_values: Callable[[Any], jax.Array] = dense,
    score: Score | None = None,
    name: str,
) -> KVCache:
    """A cache of the last kind of tokens in the drawing.

    encode  f[batch, heads, chunks, group, size] -> a leaf or array that stands for it, or any
            pytree of arrays and leaves that `decode` takes back
    score   of tokens while they wait: encode gets it, too, f32[batch, heads, chunks, group], as of
            the append that fills the chunk; attention is then among the tokens that wait
    slots   tokens that there is room for, in sinks, chunks and window together
    """
    check_counts(slots=slots, group=group)
    check_counts(0, window=window, sinks=sinks)
    waiting = 0 if group == 1 and not window else window + group
    chunks = max(0, -(-(slots - sinks - window) // group))

    def init(batch, heads, size, dtype=jnp.float32):
        check_init(batch, heads, size, slots, dtype)

        def room(encode):
            one = jax.eval_shape(lambda *x: jax.tree.map(as_bits, encode(*x)), *like)
            return jax.tree.map(
                lambda x: jnp.zeros((batch, heads, chunks, *x.shape[3:]), x.dtype), one
            )

        like = _chunk(batch, heads, size, dtype)

        def kept(tokens):
            return jnp.zeros((batch, heads, tokens, size), dtype)

        count = jnp.zeros(batch, jnp.int32)
        return Chunked(
            room(encode_keys),
            room(encode_values),
            *(kept(waiting), kept(waiting), kept(sinks), kept(sinks)),
            *(count, count, jnp.zeros(batch, bool)),
            () if score is None else score.init(batch, heads, waiting, size),
        )

    def append(state, k, v, *, queries=None, lengths=None):
        batch, heads, _, size = state.window_keys.shape
        dtype = state.window_keys.dtype
        lengths = check_tokens(k, v, lengths, batch, heads, size, dtype, slots)
        asked = None if score is None else by_head(queries, score, k)
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)  # [b, h, n, d]
        end = state.length + lengths
        before, after = _flushed(state.length), _flushed(end)
        index = jnp.arange(k.shape[2])
        there = index < lengths[:, None]
        places = state.length[:, None] + index  # positions of the new tokens
        sink = jnp.where(there & (places < sinks), places, sinks)
        pending = jnp.maximum(state.length - sinks, 0) - before * group
        # Behind what is pending; what went to the sinks is nowhere.
        shift = jnp.maximum(sinks - state.length, 0)
        room = waiting + k.shape[2]
        target = pending[:, None] + index - shift[:, None]
        target = jnp.where(there & (places >= sinks), target, room)
        if waiting:
            old = [_longer(x, k.shape[2]) for x in (state.window_keys, state.window_values)]
        else:
            old = [jnp.zeros_like(k), jnp.zeros_like(v)]
        buffers = [written(x, new, target) for x, new in zip(old, (k, v), strict=True)]
        count = -(-room // group) if not waiting else (k.shape[2] + group - 1) // group

        scores = state.scores
        if score is not None:
            at = jnp.where(there, places, NOWHERE)
            held = (sinks + before * group)[:, None] + jnp.arange(room)
            held = jnp.where(held < end[:, None], held, NOWHERE)[:, None]
            held = jnp.broadcast_to(held, buffers[0].shape[:3])
            seen = Seen(*buffers, held, asked, at)
            tokens, common = scores
            tokens = jax.tree.map(lambda x: _longer(x, k.shape[2]), tokens)
            scores = tokens, common = score.update(tokens, common, seen)
            buffers.append(score.value(tokens, common, seen))

        chunk = jnp.arange(count)
        at = jnp.where(chunk < (after - before)[:, None], before[:, None] + chunk, chunks)

        def encoded(buffers):
            whole = (x[:, :, : count * group] for x in buffers)
            k, v, *more = (x.reshape(batch, heads, count, group, *x.shape[3:]) for x in whole)
            return jax.tree.map(as_bits, (encode_keys(k, *more), encode_values(v, *more)))

        keys, values = state.keys, state.values
        if chunks:
            # Most of the time nothing leaves the window. Storage stays out of cond, and of the
            # select that it is under vmap: these copy it whole.
            if k.shape[2] < group:
                new = sometimes(jnp.any(after > before), encoded, buffers)
            else:
                new = encoded(buffers)
            keys, values = jax.tree.map(lambda old, x: written(old, x, at), (keys, values), new)
        here = (after - before)[:, None] * group + jnp.arange(waiting)

        def waits(x):
            index = here[:, None].reshape(batch, 1, waiting, *[1] * (x.ndim - 3))
            return jnp.take_along_axis(x, index, 2, mode="fill", fill_value=0)

        return Chunked(
            keys,
            values,
            *map(waits, buffers[:2]),
            written(state.sink_keys, k, sink),
            written(state.sink_values, v, sink),
            end,
            state.length,
            state.overflow | (end > slots),
            (jax.tree.map(waits, scores[0]), scores[1]) if score is not None else (),
        )

    def attend(state, q, *, rope=None, fresh=None):
        batch, heads, _, size = state.window_keys.shape
        check_queries(q, batch, heads, size)
        flushed = _flushed(state.length)
        one = _chunk(batch, heads, size, state.window_keys.dtype)
        kinds = [jax.eval_shape(encode, *one) for encode in (encode_keys, encode_values)]

        def packed(start, count):
            parts = [
                jax.tree.map(
                    lambda x, kind: from_bits(
                        lax.dynamic_slice_in_dim(x, start, count, 2), kind.dtype
                    ),
                    *pair,
                )
                for pair in zip((state.keys, state.values), kinds, strict=True)
            ]
            parts = decode_keys(parts[0]), decode_values(parts[1])
            k, v = (x.reshape(batch, heads, count * group, size) for x in parts)
            place = start * group + jnp.arange(count * group)
            known = place < flushed[:, None] * group
            return k, v, jnp.where(known, sinks + place, NOWHERE)[:, None]

        def whole(keys, values, first, end):
            def read(start, count):
                k, v = (lax.dynamic_slice_in_dim(x, start, count, 2) for x in (keys, values))
                place = (first + start)[:, None] + jnp.arange(count)
                return k, v, jnp.where(place < end[:, None], place, NOWHERE)[:, None]

            return Segment(read, keys.shape[2], 1, jnp.clip((end - first).max(), 0, keys.shape[2]))

        none = jnp.zeros_like(state.length)
        kernel = None
        if decode_keys is decode_values is dense:
            kernel = by_kernel(state.keys, state.values, kinds, flushed * group, sinks)
        segments = [
            whole(state.sink_keys, state.sink_values, none, jnp.minimum(state.length, sinks)),
            Segment(packed, chunks, group, flushed.max(), kernel),
            whole(state.window_keys, state.window_values, sinks + flushed * group, state.length),
        ]
        dtype = state.window_keys.dtype
        return blockwise.answer(state, q, segments, heads, rope, fresh, dtype), state

    def _chunk(batch, heads, size, dtype):
        """What encoders are given, as shapes."""
        x = jax.ShapeDtypeStruct((batch, heads, 1, group, size), dtype)
        return (x,) if score is None else (x, jax.ShapeDtypeStruct(x.shape[:4], jnp.float32))

    def _flushed(length):
        """Chunks that are full and out of the window, of sequences of this length."""
        return jnp.clip((length - sinks - window) // group, 0, chunks)

    return compiled(KVCache(init, append, attend, name))


def compiled(cache: KVCache) -> KVCache:
    """Each call outside of a program is one: many small ones take long to compile."""
    attend = jax.jit(cache.attend, static_argnames="rope")
    return cache._replace(append=jax.jit(cache.append), attend=attend)


def sometimes(needed: jax.Array, make: Callable[..., Any], *inputs: Any) -> Any:
    """make(*inputs) where it is needed, else zeros of its shapes."""

    def typed(made):  # both branches vary over the same axes of a mesh, under shard_map
        leaves, structure = jax.tree.flatten(made)
        found = align(*leaves, *jax.tree.leaves(inputs))[: len(leaves)]
        return jax.tree.unflatten(structure, found)

    def zeros(*inputs):
        like = jax.eval_shape(make, *inputs)
        return typed(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like))

    return lax.cond(needed, lambda *inputs: typed(make(*inputs)), zeros, *inputs)


def _longer(x: jax.Array, more: int) -> jax.Array:
    """[batch, heads, n, ...] with zeros behind, n + more."""
    return jnp.pad(x, [(0, more if axis == 2 else 0) for axis in range(x.ndim)])


def as_bits(x: jax.Array) -> jax.Array:
    """A float of 16 bits as u16, all else as it is: to write or cut a few of many bfloat16 numbers,
    programs for CPUs convert all of them."""
    half = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize == 2
    return lax.bitcast_convert_type(x, jnp.uint16) if half else x


def from_bits(x: jax.Array, dtype: Any) -> jax.Array:
    """as_bits, taken back."""
    return x if x.dtype == dtype else lax.bitcast_convert_type(x, dtype)


def written(store: jax.Array, new: jax.Array, index: jax.Array) -> jax.Array:
    """store [batch, heads, places, ...] with new [batch, heads, n, ...] at index [batch, n]; those
    beyond the last place are dropped."""
    if not store.shape[2]:
        return store
    new = new.astype(store.dtype)
    return jax.vmap(lambda s, x, i: s.at[:, i].set(x, mode="drop"))(store, new, index)
