"""Slots of heads that keep a few tokens: the same number each, or as many as a head needs.

    even    a store [batch, heads, budget]
    ragged  one pool [batch, 1, heads * budget], a run of it for each head: heads that look at few
            tokens leave their slots to heads that look at many. The prompt decides, once: its
            tokens compete over all heads of a sequence, but each head gets `least` of the budget
            and at most `most` times it (Feng et al., Ada-KV: optimizing KV cache eviction by
            adaptive budget allocation, 2024, algorithm 1, whose least is 0.2 too).

Nothing of the pool is masked away: its bytes are those of heads * budget tokens. What is bounded by
`most` is what append and attend hold beside it. A cache whose first tokens come one at a time
stays even.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.base import UnsupportedInput
from jaxcomp.kvcache.once import once


class Slots(NamedTuple):
    """How heads share a store [batch, rows, places, ...]. `at` is the state of the split.

    shape(heads, budget) -> (rows, places, most slots of a head); all static
    init(batch, heads, budget) -> at: a pytree of arrays [batch, ...]
    heads(at, store) -> how many, static
    settle(at, value f32[batch, heads, n], empty bool[batch], budget, held) -> at, for a prompt of n
        tokens, where there was nothing; every head holds `held` of the budget whatever their value
    sizes(at, store) -> i32[batch, heads]
    read(at, store, start, count, fill=0) -> slots [batch, heads, count, ...] from `start` of each
        on, filled where there are fewer
    renew(at, store, new [batch, heads, most, ...]) -> store with all slots written
    write(at, store, new [batch, heads, n, ...], target i32[batch, heads, n]) -> store, without
        those whose target is no slot of their head
    """

    shape: Callable[..., tuple[int, int, int]]
    init: Callable[..., Any]
    heads: Callable[..., int]
    settle: Callable[..., Any]
    sizes: Callable[..., jax.Array]
    read: Callable[..., jax.Array]
    renew: Callable[..., jax.Array]
    write: Callable[..., jax.Array]


@once
def even() -> Slots:
    def write(at, store, new, target):
        put = lambda s, x, i: s.at[i].set(x.astype(s.dtype), mode="drop")  # noqa: E731
        return jax.vmap(jax.vmap(put))(store, new, target)

    return Slots(
        shape=lambda heads, budget: (heads, budget, budget),
        init=lambda batch, heads, budget: (),
        heads=lambda at, store: store.shape[1],
        settle=lambda at, value, empty, budget, held: at,
        sizes=lambda at, store: jnp.full(store.shape[:2], store.shape[2], jnp.int32),
        read=lambda at, store, start, count, fill=0: lax.dynamic_slice_in_dim(
            store, start, count, 2
        ),
        renew=lambda at, store, new: new.astype(store.dtype),
        write=write,
    )


@once
def ragged(*, least: float = 0.2, most: float = 4.0) -> Slots:
    """least and most: of the budget, for one head."""
    if not 0 <= least <= 1 <= most:
        raise UnsupportedInput(
            f"expected 0 <= least <= 1 <= most, got {least} and {most}; they are shares of the "
            "budget, 0.2 and 4 are usual"
        )

    def shape(heads, budget):
        return 1, heads * budget, min(heads * budget, round(most * budget))

    def init(batch, heads, budget):
        return jnp.broadcast_to(budget * (1 + jnp.arange(heads, dtype=jnp.int32)), (batch, heads))

    def settle(at, value, empty, budget, held):
        heads, count = value.shape[1:]
        _, places, limit = shape(heads, budget)
        floor = max(held, round(least * budget))
        best = -jnp.sort(-value, axis=-1)[..., :limit]
        best = jnp.pad(
            best, [(0, 0), (0, 0), (0, limit - best.shape[-1])], constant_values=-jnp.inf
        )
        rank = jnp.arange(limit)
        # Whoever is owed a slot first, then by value; slots that nobody asks for go round.
        grade = jnp.where(rank < floor, 2, jnp.where(best == -jnp.inf, 0, 1))
        within = jnp.where(grade == 1, best, -rank.astype(jnp.float32))
        order = jnp.lexsort((-within.reshape(len(at), -1), -grade.reshape(len(at), -1)), axis=-1)
        winners = order[:, :places] // limit
        sizes = (winners[:, :, None] == jnp.arange(heads)).sum(1)
        return jnp.where(empty[:, None], jnp.cumsum(sizes, -1).astype(at.dtype), at)

    def sizes(at, store):
        return jnp.diff(at, axis=-1, prepend=0)

    def index(at, slot, store):
        """The place of each head's slots i32[batch, heads, n], behind the last for no slot."""
        held = (slot >= 0) & (slot < sizes(at, store)[..., None])
        return jnp.where(held, slot + (at - sizes(at, store))[..., None], store.shape[2])

    def read(at, store, start, count, fill=0):
        slot = jnp.broadcast_to(start + jnp.arange(count), (*at.shape, count))
        take = lambda s, i: s.at[i].get(mode="fill", fill_value=fill)  # noqa: E731
        return jax.vmap(take)(store[:, 0], index(at, slot, store))

    def write(at, store, new, target):
        place = index(at, target, store).reshape(len(at), -1)
        flat = new.reshape(len(at), -1, *new.shape[3:]).astype(store.dtype)
        put = lambda s, x, i: s.at[i].set(x, mode="drop")  # noqa: E731
        return jax.vmap(put)(store[:, 0], flat, place)[:, None]

    def renew(at, store, new):
        slot = jnp.arange(new.shape[2])
        return write(at, store, new, jnp.broadcast_to(slot, new.shape[:3]))

    return Slots(shape, init, lambda at, store: at.shape[1], settle, sizes, read, renew, write)
