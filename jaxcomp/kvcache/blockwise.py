"""Causal attention over stored tokens: a block at a time is dense, and no more than that.

    out = sum softmax(q k / sqrt(size)) v,   the softmax kept up while walking (Milakov, Gimelshein,
    Online normalizer calculation for softmax, 2018, algorithm 3)

Decoding costs time in proportion to the tokens that are there, not to the room for them, and memory
for one block.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from jaxcomp.base import UnsupportedInput
from jaxcomp.kernels.dispatch import align
from jaxcomp.kvcache.inputs import check_fresh

BLOCK = 512  # tokens that are dense at once: 8 heads of 128 are 2 MB in float32, which caches hold
QUERIES = 512  # that are answered at once: the scores of a block are as large as this times BLOCK
NOWHERE = -1  # the position of a place without a token

Rope = Callable[[jax.Array, jax.Array], jax.Array]


class Segment(NamedTuple):
    """Some stored tokens, in units that are read together.

    read(start, count) -> (keys, values f[batch, heads, tokens, size], positions i32[batch, 1 or
                           heads, tokens], NOWHERE for none) of `count` units from `start` on
    units, unit        how many there are, and tokens in each; static
    filled             i32[], units behind this hold nothing
    kernel             None, or (q [batch, heads, shared, tokens, size], at, state, walk, scale) ->
                       what walk(state), over the blocks, comes to, or that itself
    bias               None, or (start, count) -> f32[batch, heads, tokens], added to their scores;
                       not together with a kernel
    """

    read: Callable[[Any, int], tuple[jax.Array, jax.Array, jax.Array]]
    units: int
    unit: int
    filled: Any
    kernel: Callable[..., Any] | None = None
    bias: Callable[[Any, int], jax.Array] | None = None


def attend(
    q: Float[Array, "batch tokens query_heads size"],
    at: Int32[Array, "batch tokens"],
    segments: list[Segment],
    heads: int,
    *,
    rope: Rope | None = None,
    scale: float | None = None,
) -> Float[Array, "batch tokens query_heads size"]:
    """What queries at positions `at` read of all tokens at or before them; 0 where there is none.

    rope: (keys f[batch, heads, tokens, size], positions) -> keys, for keys stored without it.
    """
    batch, tokens, query_heads, size = q.shape
    if query_heads % heads:
        raise UnsupportedInput(
            f"expected query heads in runs for {heads} heads of keys, got {query_heads}; they must "
            "be a multiple"
        )
    scale = size**-0.5 if scale is None else scale
    shared = q.reshape(batch, tokens, heads, -1, size).transpose(0, 2, 3, 1, 4)  # [b, h, g, n, d]
    q32 = shared.astype(jnp.float32) * scale
    shape = q32.shape[:-1]
    state = (jnp.full(shape, -jnp.inf), jnp.zeros(shape), jnp.zeros_like(q32))
    state = align(*state, q32, at)[:3]  # a loop's state keeps its type under shard_map

    def visit(segment, start, count, state):
        most, total, out = state
        keys, values, positions = segment.read(start, count)
        keys = keys if rope is None else rope(keys, positions)
        scores = jnp.einsum("bhgnd,bhtd->bhgnt", q32, keys.astype(jnp.float32))
        if segment.bias is not None:
            scores = scores + segment.bias(start, count)[:, :, None, None]
        seen = (positions[:, :, None] <= at[:, None, :, None]) & (positions > NOWHERE)[:, :, None]
        seen = seen[:, :, None]
        scores = jnp.where(seen, scores, -jnp.inf)
        new = jnp.maximum(most, scores.max(-1))
        base = jnp.where(new > -jnp.inf, new, 0.0)  # of a query that has seen nothing yet
        shares = jnp.exp(scores - base[..., None])
        shrink = jnp.exp(most - base)
        mixed = jnp.einsum("bhgnt,bhtd->bhgnd", shares, values.astype(jnp.float32))
        return new, total * shrink + shares.sum(-1), out * shrink[..., None] + mixed

    for segment in segments:
        if not segment.units:
            continue
        count = min(segment.units, max(1, BLOCK // segment.unit))

        def block(i, state, segment=segment, count=count):
            # The last block may reach back over tokens that were read: they are masked by start.
            start = jnp.minimum(i * count, segment.units - count)
            return visit(_behind(segment, i * count), start, count, state)

        def walk(state, segment=segment, count=count, block=block):
            if count == segment.units:
                return visit(segment, 0, count, state)
            return lax.fori_loop(0, -(-segment.filled // count), block, state)

        if segment.kernel is None or rope is not None:
            state = walk(state)
        else:
            state = segment.kernel(shared, at, state, walk, scale)
    _, total, out = state
    out = out / jnp.where(total > 0, total, 1.0)[..., None]
    return out.transpose(0, 3, 1, 2, 4).reshape(q.shape).astype(q.dtype)


def answer(
    state: Any,
    q: jax.Array,
    segments: list[Segment],
    heads: int,
    rope: Rope | None,
    fresh: tuple[jax.Array, jax.Array] | None,
    dtype: Any = None,
) -> jax.Array:
    """The attend of a cache of a dtype: of the tokens from state.start on, or of fresh ones behind
    all."""
    first = state.start if fresh is None else state.length
    at = first[:, None] + jnp.arange(q.shape[1])
    if fresh is not None:
        check_fresh(fresh, q, heads, dtype)
        keys, values = (x.swapaxes(1, 2) for x in fresh)

        def read(start, count):
            cut = [lax.dynamic_slice_in_dim(x, start, count, 2) for x in (keys, values)]
            return *cut, lax.dynamic_slice_in_dim(at, start, count, 1)[:, None]

        segments = [*segments, Segment(read, q.shape[1], 1, jnp.int32(q.shape[1]))]
    if q.shape[1] <= QUERIES:
        return attend(q, at, segments, heads, rope=rope)
    more = -q.shape[1] % QUERIES
    blocks = [
        jnp.pad(x, [(0, 0), (0, more)] + [(0, 0)] * (x.ndim - 2))
        .reshape(x.shape[0], -1, QUERIES, *x.shape[2:])
        .swapaxes(0, 1)
        for x in (q, at)
    ]
    out = lax.map(lambda block: attend(*block, segments, heads, rope=rope), tuple(blocks))
    return out.swapaxes(0, 1).reshape(q.shape[0], -1, *q.shape[2:])[:, : q.shape[1]]


def _behind(segment: Segment, first: Any) -> Segment:
    """The segment without the units before `first`."""

    def read(start, count):
        keys, values, positions = segment.read(start, count)
        unit = start + jnp.arange(count * segment.unit) // segment.unit
        return keys, values, jnp.where(unit >= first, positions, NOWHERE)

    return segment._replace(read=read)
