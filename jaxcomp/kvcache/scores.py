"""Scores: which past tokens a head will still attend to. Higher stays longer.

    recent                the position: the last ones stay
    knorm                 minus the norm of the key (Devoto et al., A simple and effective L2
                          norm-based strategy for KV cache compression, 2024)
    h2o                   attention that a token has received so far (Zhang et al., H2O, 2023)
    normalised_attention  the same, divided by how many queries could see it: a sum favours those
                          who came first (He et al., ZipCache, 2024, section 4.2, equation 8); of
                          all queries, or of a share of them as probes (section 4.3)
    snapkv                attention from about the last `window` queries, the largest in a
                          neighbourhood of positions (Li et al., SnapKV, 2024, section 4)
    global_local          normalised_attention and attention from about the last `window` queries,
                          each divided by its mean over tokens, and added (Li et al., EMS, 2024,
                          section 3.2)
    expected_attention    what a normal query with the mean and covariance of past ones would give,
                          times the norm of the value (Devoto et al., Expected Attention, 2025)

Sums over the query heads that share a key are one score. We differ: snapkv's window moves as an
average over queries, so that it goes on while decoding; expected_attention's queries are as they
come, already turned to their positions, and not turned to future ones.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxcomp.base import UnsupportedInput, random_bits
from jaxcomp.kernels.dispatch import align
from jaxcomp.kvcache.blockwise import NOWHERE
from jaxcomp.kvcache.inputs import check_queries
from jaxcomp.kvcache.once import once

QUERIES = 128  # whose attention is held at once: a prompt's goes by in blocks
SEEN_LITTLE = 1e-6  # added to counts that may be zero
PROBES_KEY = (0, 2)  # of the places of random probes


class Seen(NamedTuple):
    """Tokens that compete, those that are kept and those that come, and what comes with them.

    keys, values  f[batch, heads, tokens, size]
    positions     i32[batch, heads, tokens], NOWHERE for none
    queries       f32[batch, heads, shared by, new, size], or None
    at            i32[batch, new]: positions of the new tokens, and of their queries
    bias          f32[batch, heads, tokens] that attention adds to their scores, or None
    """

    keys: jax.Array
    values: jax.Array
    positions: jax.Array
    queries: jax.Array | None
    at: jax.Array
    bias: jax.Array | None = None


class Score(NamedTuple):
    """init(batch, heads, slots, size) -> (tokens, common): pytrees of arrays [batch, heads, slots,
                                          ...] and [batch, heads, ...], all zeros
    update(tokens, common, seen) -> (tokens, common)     tokens now of all that compete
    value(tokens, common, seen) -> f32[batch, heads, tokens]
    """

    init: Callable[..., tuple[Any, Any]]
    update: Callable[..., tuple[Any, Any]]
    value: Callable[..., jax.Array]
    needs_queries: bool
    name: str


def by_head(queries: jax.Array | None, score: Score, k: jax.Array) -> jax.Array | None:
    """f32[batch, heads, shared by, tokens, size], of queries of the tokens of k [batch, tokens,
    heads, size]. UnsupportedInput where a score needs them and there are none."""
    batch, tokens, heads, size = k.shape
    if queries is None:
        if score.needs_queries:
            raise UnsupportedInput(
                f"expected queries, which {score.name} scores tokens by, got None; pass queries=q"
            )
        return None
    check_queries(queries, batch, heads, size, tokens)
    split = queries.astype(jnp.float32).reshape(batch, tokens, heads, -1, size)
    return split.transpose(0, 2, 3, 1, 4)


def _stateless(value: Callable[[Seen], jax.Array], name: str) -> Score:
    return Score(
        lambda *_: ((), ()),
        lambda tokens, common, seen: (tokens, common),
        lambda tokens, common, seen: value(seen),
        False,
        name,
    )


@once
def recent() -> Score:
    return _stateless(lambda seen: seen.positions.astype(jnp.float32), "recent")


@once
def knorm() -> Score:
    return _stateless(
        lambda seen: -jnp.linalg.norm(seen.keys.astype(jnp.float32), axis=-1), "knorm"
    )


@once
def h2o() -> Score:
    return _accumulated(lambda mass, count: mass, "h2o")


@once
def normalised_attention(*, probes: float = 1.0) -> Score:
    """probes: the share of the queries of a prompt that count, half of them its last ones and half
    anywhere before these: at 0.1, the paper's, scoring costs a tenth of attention. A token that
    comes alone is one."""
    if not 0 < probes <= 1:
        raise UnsupportedInput(f"expected probes above 0, up to 1, got {probes}; 0.1 is usual")
    name = "normalised attention"
    return _accumulated(lambda mass, count: mass / (count + SEEN_LITTLE), name, probes)


def probed(seen: Seen, count: int) -> Seen:
    """Of its new queries `count`: half of them the last ones, half spread at random before them."""
    length = (seen.at > NOWHERE).sum(1)[:, None]
    last = -(-count // 2)
    here = length - 1 - jnp.arange(last)
    bits, _ = random_bits(PROBES_KEY, np.arange(count - last, dtype=np.uint32))
    spread = (np.arange(count - last) + bits / 2.0**32) / max(1, count - last)
    before = jnp.maximum(length - last, 0)
    there = jnp.minimum((spread * before).astype(jnp.int32), before - 1)
    pick = jnp.concatenate([there, here], 1)  # below 0 where there are fewer
    at = jnp.where(pick < 0, NOWHERE, jnp.take_along_axis(seen.at, jnp.maximum(pick, 0), 1))
    place = jnp.maximum(pick, 0)[:, None, None, :, None]
    return seen._replace(queries=jnp.take_along_axis(seen.queries, place, 3), at=at)


@once
def snapkv(*, window: int = 32, pool: int = 5) -> Score:
    """pool: positions that share their largest score, an odd number; 1 for none."""
    if window < 1 or pool < 1 or pool % 2 == 0:
        raise UnsupportedInput(
            f"expected window >= 1 and an odd pool, got {window} and {pool}; 32 and 5 are usual"
        )

    def init(batch, heads, slots, size):
        return jnp.zeros((batch, heads, slots), jnp.float32), ()

    def update(tokens, common, seen):
        new = (seen.at > NOWHERE).sum(1)
        last = seen.at.max(1, keepdims=True)
        probes = (seen.at > last - window) & (seen.at > NOWHERE)
        mass = attention_mass(seen, probes)
        # Of `window` queries the new ones take the place of as many old ones.
        old = jnp.clip(1 - new / window, 0, 1)[:, None, None]
        return old * tokens + mass / window, common

    def value(tokens, common, seen):
        if pool == 1:
            return tokens
        # Positions differ: who is at most pool // 2 apart is at most as far off in their order.
        order = jnp.argsort(seen.positions, axis=-1)
        place, mass = (jnp.take_along_axis(x, order, -1) for x in (seen.positions, tokens))
        most = mass
        for shift in range(1, pool // 2 + 1):
            for by in (shift, -shift):
                other = jnp.roll(place, by, -1)
                near = (jnp.abs(other - place) <= pool // 2) & (other > NOWHERE)
                most = jnp.maximum(most, jnp.where(near, jnp.roll(mass, by, -1), 0))
        return jnp.take_along_axis(most, jnp.argsort(order, axis=-1), -1)

    return Score(init, update, value, True, "snapkv")


@once
def global_local(*, window: int = 32) -> Score:
    of_all, of_last = normalised_attention(), snapkv(window=window, pool=1)

    def init(*shape):
        return tuple(score.init(*shape)[0] for score in (of_all, of_last)), ()

    def update(tokens, common, seen):
        scores = zip((of_all, of_last), tokens, strict=True)
        return tuple(score.update(each, (), seen)[0] for score, each in scores), common

    def value(tokens, common, seen):
        there = seen.positions > NOWHERE
        count = jnp.maximum(there.sum(-1, keepdims=True), 1)
        total = 0
        for score, each in zip((of_all, of_last), tokens, strict=True):
            mass = jnp.where(there, score.value(each, (), seen), 0)
            total += mass / (mass.sum(-1, keepdims=True) / count + SEEN_LITTLE)
        return total

    return Score(init, update, value, True, "global local")


@once
def expected_attention() -> Score:
    def init(batch, heads, slots, size):
        sums = (batch, heads), (batch, heads, size), (batch, heads, size, size)
        return (), tuple(jnp.zeros(shape, jnp.float32) for shape in sums)

    def update(tokens, common, seen):
        there = (seen.at > NOWHERE)[:, None, None, :, None]
        q = jnp.where(there, seen.queries, 0)
        count, total, square = common
        shared = q.shape[2]
        count = count + shared * (seen.at > NOWHERE).sum(1)[:, None]
        total = total + q.sum((2, 3))
        return tokens, (count, total, square + jnp.einsum("bhgnd,bhgne->bhde", q, q))

    def value(tokens, common, seen):
        count, total, square = common
        count = jnp.maximum(count, 1)[..., None]
        mean = total / count
        covariance = square / count[..., None] - mean[..., None] * mean[..., None, :]
        k = seen.keys.astype(jnp.float32)
        size = k.shape[-1]
        first = jnp.einsum("bhtd,bhd->bht", k, mean) / size**0.5
        second = jnp.einsum("bhtd,bhde,bhte->bht", k, covariance, k) / (2 * size)
        norm = jnp.linalg.norm(seen.values.astype(jnp.float32), axis=-1)
        return first + second + jnp.log(norm + SEEN_LITTLE)  # the logarithm orders the same

    return Score(init, update, value, True, "expected attention")


def _accumulated(
    value: Callable[[jax.Array, jax.Array], jax.Array], name: str, probes: float = 1.0
) -> Score:
    def init(batch, heads, slots, size):
        return tuple(jnp.zeros((batch, heads, slots), jnp.float32) for _ in range(2)), ()

    def update(tokens, common, seen):
        mass, count = tokens
        few, new = math.ceil(probes * seen.at.shape[1]), seen.at.shape[1]
        if few < new:
            seen = probed(seen, few)
        there = seen.at > NOWHERE
        if few < new:  # of these queries, those not before the token
            more = (seen.at[:, None, None] >= seen.positions[..., None]).sum(-1)
        else:
            new, last = (x[:, None, None] for x in (there.sum(1), seen.at.max(1)))
            more = jnp.clip(last + 1 - seen.positions, 0, new)
        return (mass + attention_mass(seen, there), count + more), common

    return Score(init, update, lambda tokens, common, seen: value(*tokens), True, name)


def attention_mass(
    seen: Seen, probes: Bool[Array, "batch new"]
) -> Float[Array, "batch heads tokens"]:
    """The attention that every token receives from the new queries where probes is True."""
    shared, new, size = seen.queries.shape[2:]
    k = seen.keys.astype(jnp.float32)
    block = min(QUERIES, new)
    more = -new % block
    q = jnp.pad(seen.queries, [(0, 0)] * 3 + [(0, more), (0, 0)])
    at = jnp.pad(jnp.where(probes, seen.at, NOWHERE), ((0, 0), (0, more)), constant_values=NOWHERE)

    def part(mass, i):
        now = lax.dynamic_slice_in_dim(q, i * block, block, 3)
        here = lax.dynamic_slice_in_dim(at, i * block, block, 1)[:, None, None, :, None]
        scores = jnp.einsum("bhgnd,bhtd->bhgnt", now, k) / size**0.5
        if seen.bias is not None:
            scores = scores + seen.bias[:, :, None, None]
        place = seen.positions[:, :, None, None]
        scores = jnp.where((place <= here) & (place > NOWHERE), scores, -jnp.inf)
        base = jnp.maximum(scores.max(-1, keepdims=True), -1e30)
        shares = jnp.exp(scores - base)
        total = shares.sum(-1, keepdims=True)
        return mass + (shares / jnp.where(total > 0, total, 1)).sum((2, 3)), None

    start = jnp.zeros(seen.positions.shape, jnp.float32)
    start = align(start, k, q, at)[0]  # a loop's state keeps its type under shard_map
    return lax.scan(part, start, jnp.arange((new + more) // block))[0]
