"""EMS: who is evicted is merged into the kept token whose key is nearest, or into none.

    keep the tokens of the highest score, as evict does; of the others, each joins the kept token t
    of the largest cos(k, k_t) if that is at least `near`: k_t and v_t become the means over all
    whom t stands for. Who is near to none joins the zero class, and is gone.

The score is global-local: attention received from all queries and from the last ones, each divided
by its mean over the tokens (Li et al., EMS: adaptive evict-then-merge strategy for head-wise KV
cache compression, arXiv:2412.08521, sections 3.2 and 3.3). Every head merges as many tokens, most
of them into nothing: one program for all.

We differ: a token that stands for n counts n times in the softmax, log n added to its score, so
that merged copies are attended to as much as they were apart; near is a constant, where the paper
ranks.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxcomp.base import KVCache, UnsupportedInput
from jaxcomp.kvcache.blockwise import NOWHERE
from jaxcomp.kvcache.evict import Merge, evict
from jaxcomp.kvcache.scores import Seen, global_local

TINY = 1e-12  # of squared norms that may be zero


def ems(budget: int, *, near: float = 0.8, window: int = 32, **options: Any) -> KVCache:
    """A cache of `budget` tokens for each head, and how many each stands for; needs queries.

    near: the cosine from which on two keys are one; window: queries that are the last ones; options
    are those of evict.
    """
    if not -1 <= near <= 1:
        raise UnsupportedInput(f"expected near to be a cosine, got {near}; 0.8 is usual")

    merge = Merge(functools.partial(copies, near=near), functools.partial(join, near=near))
    cache = evict(global_local(window=window), budget, merge=merge, **options)
    return cache._replace(name="ems")


def copies(seen: Seen, near: float) -> jax.Array:
    """bool[batch, heads, new]: whose key is near that of a token before it."""
    new = seen.at.shape[1]
    cosine = _cosine(seen.keys[:, :, -new:], seen.keys)
    there = seen.positions > NOWHERE
    before = seen.positions[:, :, None] < seen.positions[:, :, -new:, None]
    return ((cosine >= near) & before & there[:, :, None]).any(-1) & there[:, :, -new:]


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

    cosine = jnp.where(kept[:, :, None], _cosine(k, keys), -jnp.inf)
    best = cosine.max(-1)
    joins = goes & (best >= near)
    target = jnp.where(joins, cosine.argmax(-1), tokens)

    def added(x, more):
        put = lambda x, i, more: x.at[i].add(more, mode="drop")  # noqa: E731
        return jax.vmap(jax.vmap(put))(x, target, more)

    total = added(counts, weight)
    grown = [
        added(x * counts[..., None], each * weight[..., None]) / jnp.maximum(total, 1)[..., None]
        for x, each in ((keys, k), (values, v))
    ]
    return *grown, total, target


def _cosine(x: jax.Array, y: jax.Array) -> jax.Array:
    unit = (
        z / jnp.sqrt(jnp.square(z).sum(-1, keepdims=True) + TINY)
        for z in (x.astype(jnp.float32), y.astype(jnp.float32))
    )
    return jnp.einsum("bhed,bhtd->bhet", *unit)
