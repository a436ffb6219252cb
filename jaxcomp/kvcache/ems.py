"""EMS: who is evicted is merged into the kept token whose key is nearest, or into none.

    keep the tokens of the highest score, as evict does; of the others, each joins the kept token t
    nearest, if 1 - |k - k_t|^2 / (2 s^2) is at least `near`: k_t and v_t become the means over all
    whom t stands for. Who is near to none joins the zero class, and is gone. s is the deviation of
    the head's keys.

The score is global-local: attention received from all queries and from the last ones, each divided
by its mean over the tokens (Li et al., EMS: adaptive evict-then-merge strategy for head-wise KV
cache compression, arXiv:2412.08521, sections 3.2 and 3.3). Every head merges as many tokens, most
of them into nothing: one program for all.

We differ: a token that stands for n counts n times in the softmax, log n added to its score, so
that merged copies are attended to as much as they were apart. A token that is near to one before
joins it as it comes, whatever its score, so that no slot holds a copy. near is a constant, where
the paper ranks.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxcomp.base import KVCache, UnsupportedInput
from jaxcomp.kvcache.blockwise import NOWHERE
from jaxcomp.kvcache.evict import Merge, evict
from jaxcomp.kvcache.once import once
from jaxcomp.kvcache.scores import Seen, global_local

TINY = 1e-12  # of a deviation that may be zero


@once
def ems(budget: int, *, near: float = 0.95, window: int = 32, **options: Any) -> KVCache:
    """A cache of `budget` tokens for each head, and how many each stands for; needs queries.

    near: from where on two keys are one, where 1 is equal and 0 as far as any two are on average;
    window: queries that are the last ones; options are those of evict.
    """
    if not 0 <= near <= 1:
        raise UnsupportedInput(f"expected near from 0 to 1, got {near}; 0.95 is usual")

    merge = Merge(functools.partial(copies, near=near), functools.partial(join, near=near))
    cache = evict(global_local(window=window), budget, merge=merge, **options)
    return cache._replace(name="ems")


def copies(seen: Seen, near: float) -> jax.Array:
    """bool[batch, heads, new]: whose key is near that of a token before it."""
    new = seen.at.shape[1]
    alike = _alike(seen.keys[:, :, -new:], seen)
    there = seen.positions > NOWHERE
    before = seen.positions[:, :, None] < seen.positions[:, :, -new:, None]
    return ((alike >= near) & before & there[:, :, None]).any(-1) & there[:, :, -new:]


def join(
    seen: Seen, kept: jax.Array, counts: jax.Array, near: float
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """As Merge has it; at most as many are dropped as are new."""
    new, tokens = seen.at.shape[1], kept.shape[-1]
    keys, values = seen.keys.astype(jnp.float32), seen.values.astype(jnp.float32)
    dropped = ~kept & (seen.positions > NOWHERE)
    who = jnp.argsort(~dropped, axis=-1, stable=True)[..., :new]
    goes = jnp.take_along_axis(dropped, who, -1)
    k, v = (jnp.take_along_axis(x, who[..., None], 2) for x in (keys, values))
    weight = jnp.take_along_axis(counts, who, -1)

    alike = jnp.where(kept[:, :, None], _alike(k, seen), -jnp.inf)
    joins = goes & (alike.max(-1) >= near)
    target = jnp.where(joins, alike.argmax(-1), tokens)

    def added(x, more):
        put = lambda x, i, more: x.at[i].add(more, mode="drop")  # noqa: E731
        return jax.vmap(jax.vmap(put))(x, target, more)

    total = added(counts, weight)
    grown = [
        added(x * counts[..., None], each * weight[..., None]) / jnp.maximum(total, 1)[..., None]
        for x, each in ((keys, k), (values, v))
    ]
    return *grown, total, target


def _alike(k: jax.Array, seen: Seen) -> jax.Array:
    """1 for equal keys, about 0 for any two: f32[batch, heads, n, tokens] of k [batch, heads, n,
    size] and all tokens."""
    there = (seen.positions > NOWHERE)[..., None]
    keys, count = seen.keys.astype(jnp.float32), jnp.maximum(there.sum(2, keepdims=True), 1)
    # Channels that are large in every token would make all cosines large: what they share goes.
    mean = jnp.where(there, keys, 0).sum(2, keepdims=True) / count
    keys, k = keys - mean, k.astype(jnp.float32) - mean
    square, other = (jnp.square(x).sum(-1) for x in (k, keys))
    deviation = jnp.where(there[..., 0], other, 0).sum(-1) / count[..., 0, 0]
    apart = square[..., None] + other[:, :, None] - 2 * jnp.einsum("bhed,bhtd->bhet", k, keys)
    return 1 - jnp.maximum(apart, 0) / (2 * deviation + TINY)[..., None, None]
