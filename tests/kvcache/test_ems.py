"""EMS: copies become one token that counts as many; where nothing is near it is evict."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.kvcache.ems import copies, join
from jaxcomp.kvcache.scores import Seen
from tests.checks import check_cache
from tests.kvcache.inputs import qkv

K = jc.kvcache


def planted(items=12, tokens=60, size=32):
    """A text of items that come again and again, slightly changed, some often and some seldom; a
    token asks for a few of them."""
    keys = jax.random.split(jax.random.key(0), 6)
    often = 1 / jnp.arange(1, items + 1)
    which = jax.random.choice(keys[0], items, (tokens,), p=often / often.sum())
    k, v = (
        jax.random.normal(item, (items, 2, size))[which]
        + 0.15 * jax.random.normal(noise, (tokens, 2, size))
        for item, noise in zip(keys[1:3], keys[3:5], strict=True)
    )
    asked = jax.random.choice(keys[5], items, (tokens,))
    q = 0.4 * jnp.repeat(jax.random.normal(keys[1], (items, 2, size))[asked], 2, 1)
    return [x[None] for x in (q, k, v)]


def late_error(cache, q, k, v):
    state = cache.init(1, 2, k.shape[-1])

    @jax.jit
    def run(state, new):
        return jax.lax.scan(lambda s, x: K.attention(cache, s, *x)[::-1], state, new)

    pieces = [x.reshape(1, -1, 5, *x.shape[2:]).swapaxes(0, 1) for x in (q, k, v)]
    state, out = run(state, pieces)
    out = out.swapaxes(0, 1).reshape(q.shape)
    exact = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    late = slice(q.shape[1] // 2, None)
    off = jnp.square(out - exact)[:, late].mean() / jnp.square(exact)[:, late].mean()
    return float(off) ** 0.5, state


def test_the_law():
    check_cache(K.ems(12, sinks=2, recent=4), tolerance=None, alone=False)


def test_copies_become_one_token_that_counts_as_many():
    """Exact copies, more of them than the budget holds: attention is as if all were there."""
    _, k, v = (x[:, :4] for x in qkv(4, batch=1))
    k, v = (jnp.tile(x, (1, 6, 1, 1)) for x in (k, v))
    q = qkv(24, batch=1, seed=1)[0]
    cache = K.ems(8, sinks=0, recent=0)
    state = cache.append(cache.init(1, 2, 32), k[:, :12], v[:, :12], queries=q[:, :12])
    state = cache.append(state, k[:, 12:], v[:, 12:], queries=q[:, 12:])
    assert (state.counts.sum(-1) == 24).all() and ((state.positions >= 0).sum(-1) == 4).all()
    out, _ = cache.attend(state, q[:, 12:])
    exact = jax.nn.dot_product_attention(q[:, -1:], k, v)
    np.testing.assert_allclose(out[:, -1:], exact, atol=1e-5)


def test_at_a_quarter_of_the_tokens_merging_beats_evicting():
    q, k, v = planted()
    options = {"sinks": 0, "recent": 2}
    ours, state = late_error(K.ems(15, **options), q, k, v)
    # A count takes a part of a slot: 16 slots of evict hold more bytes than 15 that count.
    plain, other = late_error(K.evict(K.global_local(), 16, **options), q, k, v)
    assert K.nbytes(state) <= K.nbytes(other) and ours < 0.1 * plain


def test_where_nothing_is_near_nothing_merges():
    _, k, v = (x.swapaxes(1, 2) for x in qkv(24))
    positions = jnp.broadcast_to(jnp.arange(24), (2, 2, 24))
    seen = Seen(k, v, positions, None, jnp.broadcast_to(jnp.arange(20, 24), (2, 4)))
    kept, counts = positions >= 4, jnp.ones((2, 2, 24))
    assert not copies(seen, near=0.95).any()
    keys, values, total, grown = join(seen, kept, counts, near=0.95)
    for same, as_it_was in ((keys, k), (values, v), (total, counts), (grown, 24)):
        np.testing.assert_array_equal(same, as_it_was)


def test_shares_that_are_none_are_refused():
    with pytest.raises(jc.UnsupportedInput, match="near from 0 to 1"):
        K.ems(8, near=2.0)
