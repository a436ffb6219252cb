"""evict: a budget of tokens for every head; whoever scores least makes room.

    keep the `budget` tokens of the highest score among those kept so far and those that come

Any score (scores.py) with any token format. A slot holds any position, so heads keep different
tokens, and what is kept never moves: a token that comes takes the slot of one that goes. The bytes
are those of `budget` tokens, however long the text.

The first `sinks` positions and the last `recent` ones are never evicted: attention leans on the
first (Xiao et al., Efficient streaming language models with attention sinks, 2024, section 3).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.base import KVCache, UnsupportedInput
from jaxcomp.formats.leaf import dense
from jaxcomp.kvcache import blockwise
from jaxcomp.kvcache.blockwise import NOWHERE, Segment
from jaxcomp.kvcache.chunked import compiled
from jaxcomp.kvcache.inputs import check_init, check_queries, check_tokens
from jaxcomp.kvcache.scores import Score, Seen, by_head


class Kept(NamedTuple):
    """keys and values: leaves or arrays f[batch, heads, budget, size]; positions i32[batch, heads,
    budget], NOWHERE in a free slot; tokens and common: what the score knows of each slot and each
    head; length, start and overflow as in chunked.py; nothing overflows here."""

    keys: Any
    values: Any
    positions: jax.Array
    tokens: Any
    common: Any
    length: jax.Array
    start: jax.Array
    overflow: jax.Array


def evict(
    score: Score,
    budget: int,
    *,
    sinks: int = 4,
    recent: int = 32,
    encode: Callable[[jax.Array], Any] | None = None,
) -> KVCache:
    """A cache of `budget` tokens for each head.

    encode: f[batch, heads, tokens, size] -> a leaf of jaxcomp.formats with the same free axes, in
    which every token stands for itself; None keeps tokens as they are. Needs queries where the
    score does.
    """
    if type(budget) is not int or budget < 1 or sinks < 0 or recent < 0 or sinks + recent > budget:
        raise UnsupportedInput(
            f"expected a budget of at least 1 that holds the sinks and the recent tokens, got "
            f"{budget!r} for {sinks} and {recent}; raise it, or lower these"
        )
    pack = encode or (lambda x: x)

    def init(batch, heads, size, dtype=jnp.float32):
        check_init(batch, heads, size, budget, dtype)
        like = jax.ShapeDtypeStruct((batch, heads, budget, size), dtype)
        kept = jax.eval_shape(pack, like)
        keys, values = (jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), kept) for _ in "kv")
        count = jnp.zeros(batch, jnp.int32)
        positions = jnp.full((batch, heads, budget), NOWHERE, jnp.int32)
        known = score.init(batch, heads, budget, size)
        return Kept(keys, values, positions, *known, count, count, jnp.zeros(batch, bool))

    def append(state, k, v, *, queries=None, lengths=None):
        batch, heads, _ = state.positions.shape
        lengths = check_tokens(k, v, lengths, batch, heads, state.keys.shape[-1], state.keys.dtype)
        asked = by_head(queries, score, k)
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        count = k.shape[2]
        index = jnp.arange(count)
        at = jnp.where(index < lengths[:, None], state.length[:, None] + index, NOWHERE)
        new = jnp.broadcast_to(at[:, None], (batch, heads, count))
        seen = Seen(
            jnp.concatenate([dense(state.keys), k], 2),
            jnp.concatenate([dense(state.values), v], 2),
            jnp.concatenate([state.positions, new], 2),
            asked,
            at,
        )
        end = state.length + lengths

        def with_room(x):
            return jnp.pad(x, [(0, count if axis == 2 else 0) for axis in range(x.ndim)])

        tokens, common = score.update(jax.tree.map(with_room, state.tokens), state.common, seen)
        value = score.value(tokens, common, seen)
        now = end[:, None, None]
        held = (seen.positions < sinks) | (seen.positions >= now - recent)
        value = jnp.where(held, jnp.inf, value)
        value = jnp.where(seen.positions == NOWHERE, -jnp.inf, value)
        target = _places(value, seen.positions, budget)

        def moved(old, fresh):
            put = lambda s, x, i: s.at[i].set(x.astype(s.dtype), mode="drop")  # noqa: E731
            return jax.vmap(jax.vmap(put))(old, fresh, target)

        return Kept(
            jax.tree.map(moved, state.keys, pack(k)),
            jax.tree.map(moved, state.values, pack(v)),
            moved(state.positions, new),
            jax.tree.map(lambda x: moved(x[:, :, :budget], x[:, :, budget:]), tokens),
            common,
            end,
            state.length,
            state.overflow,
        )

    def attend(state, q, *, rope=None, fresh=None):
        batch, heads, _ = state.positions.shape
        check_queries(q, batch, heads, state.keys.shape[-1])

        def read(start, count):
            cut = lambda x: lax.dynamic_slice_in_dim(x, start, count, 2)  # noqa: E731
            kept = (dense(jax.tree.map(cut, part)) for part in (state.keys, state.values))
            return *kept, cut(state.positions)

        segments = [Segment(read, budget, 1, jnp.int32(budget))]
        return blockwise.answer(state, q, segments, heads, rope, fresh, state.keys.dtype), state

    name = f"evict by {score.name}"
    return compiled(KVCache(init, append, attend, name))


def _places(value: jax.Array, positions: jax.Array, budget: int) -> jax.Array:
    """The slot i32[batch, heads, n] of each new token, `budget` for those that are not kept.

    value f32 and positions i32 [batch, heads, budget + n]: of the slots, then of new tokens.
    """
    order = jnp.argsort(-value, axis=-1, stable=True)
    rank = jnp.argsort(order, axis=-1, stable=True)
    kept = rank < budget
    free = ~kept[..., :budget]
    comes = kept[..., budget:] & (positions[..., budget:] != NOWHERE)
    slots = jnp.argsort(~free, axis=-1, stable=True)  # free ones first
    turn = jnp.cumsum(comes, -1) - 1
    found = jnp.take_along_axis(slots, jnp.clip(turn, 0, budget - 1), -1)
    return jnp.where(comes, found, budget)
