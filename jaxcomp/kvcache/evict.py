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

from jaxcomp.base import KVCache, UnsupportedInput
from jaxcomp.formats.leaf import dense
from jaxcomp.kvcache import blockwise
from jaxcomp.kvcache.blockwise import NOWHERE, Segment
from jaxcomp.kvcache.chunked import compiled
from jaxcomp.kvcache.inputs import check_init, check_queries, check_tokens
from jaxcomp.kvcache.once import once
from jaxcomp.kvcache.scores import Score, Seen, by_head
from jaxcomp.kvcache.slots import Slots, even


class Merge(NamedTuple):
    """What becomes of those who go.

    copies(seen) -> bool[batch, heads, new]: who among the new goes, whatever its score and the room
    join(seen, kept bool[batch, heads, tokens], counts f32[batch, heads, tokens]) -> (keys, values,
        counts, grown i32[batch, heads, new]): all tokens and whom they stand for, and the indices
        of those that changed, `tokens` for none
    """

    copies: Callable[..., jax.Array]
    join: Callable[..., tuple[jax.Array, jax.Array, jax.Array, jax.Array]]


class Kept(NamedTuple):
    """Slots of heads, as slots.py shares them out: keys and values leaves or arrays f[batch, rows,
    places, size]; positions i32[batch, rows, places], NOWHERE in a free slot; tokens and common:
    what the score knows of each slot and each head; at: which slots are whose; counts f32[batch,
    rows, places]: how many tokens a slot stands for, or (). length, start and overflow as in
    chunked.py; nothing overflows here."""

    keys: Any
    values: Any
    positions: jax.Array
    tokens: Any
    common: Any
    at: Any
    counts: Any
    length: jax.Array
    start: jax.Array
    overflow: jax.Array


@once
def evict(
    score: Score,
    budget: int,
    *,
    sinks: int = 4,
    recent: int = 32,
    encode: Callable[[jax.Array], Any] | None = None,
    slots: Slots | None = None,
    merge: Merge | None = None,
) -> KVCache:
    """A cache of `budget` tokens for each head.

    encode: f[batch, heads, tokens, size] -> a leaf of jaxcomp.formats with the same free axes, in
    which every token stands for itself; None keeps tokens as they are. slots: ragged() shares the
    tokens out to heads as they need them. merge: what becomes of those who go; ems is such a cache.
    Needs queries where the score does.
    """
    if type(budget) is not int or budget < 1 or sinks < 0 or recent < 0 or sinks + recent > budget:
        raise UnsupportedInput(
            f"expected a budget of at least 1 that holds the sinks and the recent tokens, got "
            f"{budget!r} for {sinks} and {recent}; raise it, or lower these"
        )
    pack = encode or (lambda x: x)
    slots = even() if slots is None else slots

    def init(batch, heads, size, dtype=jnp.float32):
        check_init(batch, heads, size, budget, dtype)
        rows, places, _ = slots.shape(heads, budget)
        like = jax.ShapeDtypeStruct((batch, rows, places, size), dtype)
        kept = jax.eval_shape(pack, like)
        keys, values = (jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), kept) for _ in "kv")
        count = jnp.zeros(batch, jnp.int32)
        return Kept(
            *(keys, values, jnp.full((batch, rows, places), NOWHERE, jnp.int32)),
            score.init(batch, rows, places, size)[0],
            score.init(batch, heads, 1, size)[1],
            slots.init(batch, heads, budget),
            jnp.zeros((batch, rows, places), jnp.float32) if merge else (),
            *(count, count, jnp.zeros(batch, bool)),
        )

    def append(state, k, v, *, queries=None, lengths=None):
        batch, heads = len(state.length), slots.heads(state.at, state.positions)
        _, _, most = slots.shape(heads, budget)
        lengths = check_tokens(k, v, lengths, batch, heads, state.keys.shape[-1], state.keys.dtype)
        asked = by_head(queries, score, k)
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        count = k.shape[2]
        index = jnp.arange(count)
        at = jnp.where(index < lengths[:, None], state.length[:, None] + index, NOWHERE)
        new = jnp.broadcast_to(at[:, None], (batch, heads, count))

        def held(x, fill=0):
            return slots.read(state.at, x, 0, most, fill)

        old = (dense(jax.tree.map(held, part)) for part in (state.keys, state.values))
        counts = ()
        if merge:
            counts = jnp.concatenate([held(state.counts), jnp.ones(new.shape)], 2)
        seen = Seen(
            *(jnp.concatenate(pair, 2) for pair in zip(old, (k, v), strict=True)),
            jnp.concatenate([held(state.positions, NOWHERE), new], 2),
            asked,
            at,
            jnp.log(jnp.maximum(counts, 1)) if merge else None,
        )
        end = state.length + lengths

        def with_room(x):
            return jnp.pad(held(x), [(0, count if axis == 2 else 0) for axis in range(x.ndim)])

        tokens, common = score.update(jax.tree.map(with_room, state.tokens), state.common, seen)
        value = score.value(tokens, common, seen)
        now = end[:, None, None]
        stays = (seen.positions < sinks) | (seen.positions >= now - recent)
        value = jnp.where(stays, jnp.inf, value)
        value = jnp.where(seen.positions == NOWHERE, -jnp.inf, value)
        if merge:
            copies = jnp.where(merge.copies(seen), -jnp.inf, jnp.inf)
            value = value.at[..., most:].min(copies)
        whose = state.at
        if count > 1:
            whose = slots.settle(
                whose, value[..., most:], state.length == 0, budget, sinks + recent
            )
        kept = _best(value, slots.sizes(whose, state.positions))
        target = _places(kept, slots.sizes(whose, state.positions), most)

        def moved(store, x):
            return slots.write(whose, store, x, target)

        keys, values = state.keys, state.values
        if merge:
            grown_keys, grown_values, counts, grown = merge.join(seen, kept, counts)
            k, v = grown_keys[:, :, most:], grown_values[:, :, most:]
            again = jnp.minimum(grown, most + count - 1)[..., None]  # any, where it is none
            more = (jnp.take_along_axis(x, again, 2) for x in (grown_keys, grown_values))
            # Who grew among the old stays in its slot; who grew among the new is written below.
            slot = jnp.where(grown < most, grown, most)
            keys, values = (
                jax.tree.map(
                    lambda store, x: slots.write(whose, store, x, slot),
                    part,
                    pack(x.astype(part.dtype)),
                )
                for part, x in zip((keys, values), more, strict=True)
            )

        def renewed(store, x):
            return moved(slots.renew(whose, store, x[:, :, :most]), x[:, :, most:])

        return Kept(
            jax.tree.map(moved, keys, pack(k.astype(state.keys.dtype))),
            jax.tree.map(moved, values, pack(v.astype(state.values.dtype))),
            moved(state.positions, new),
            jax.tree.map(renewed, state.tokens, tokens),
            common,
            whose,
            renewed(state.counts, counts) if merge else (),
            *(end, state.length, state.overflow),
        )

    def attend(state, q, *, rope=None, fresh=None):
        batch, heads = len(state.length), slots.heads(state.at, state.positions)
        _, _, most = slots.shape(heads, budget)
        check_queries(q, batch, heads, state.keys.shape[-1])

        def read(start, count):
            cut = lambda x, fill=0: slots.read(state.at, x, start, count, fill)  # noqa: E731
            kept = (dense(jax.tree.map(cut, part)) for part in (state.keys, state.values))
            return *kept, cut(state.positions, NOWHERE)

        def bias(start, count):
            return jnp.log(jnp.maximum(slots.read(state.at, state.counts, start, count), 1))

        segments = [Segment(read, most, 1, jnp.int32(most), bias=bias if merge else None)]
        return blockwise.answer(state, q, segments, heads, rope, fresh, state.keys.dtype), state

    name = f"evict by {score.name}"
    return compiled(KVCache(init, append, attend, name))


def _best(value: jax.Array, sizes: jax.Array) -> jax.Array:
    """Whether each f32[batch, heads, tokens] is among the sizes i32[batch, heads] best; -inf never.

    Of equals, those in front."""
    order = jnp.argsort(-value, axis=-1, stable=True)
    rank = jnp.argsort(order, axis=-1, stable=True)
    return (rank < sizes[..., None]) & (value > -jnp.inf)


def _places(kept: jax.Array, sizes: jax.Array, most: int) -> jax.Array:
    """The slot i32[batch, heads, n] of each new token, `most` for those that are not kept.

    kept bool[batch, heads, most + n]: of the slots, of which `sizes` exist, then of new tokens.
    """
    free = ~kept[..., :most] & (jnp.arange(most) < sizes[..., None])
    comes = kept[..., most:]
    order = jnp.argsort(~free, axis=-1, stable=True)  # free ones first
    turn = jnp.cumsum(comes, -1) - 1
    found = jnp.take_along_axis(order, jnp.clip(turn, 0, most - 1), -1)
    return jnp.where(comes, found, most)
