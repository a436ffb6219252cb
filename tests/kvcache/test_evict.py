"""Eviction: exact within the budget, never more than it, and what is held is what scores say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.kvcache.scores import Score
from tests.checks import check_cache
from tests.kvcache.inputs import qkv

K = jc.kvcache


def decoded(cache, q, k, v, prompt):
    """(outputs of the tokens after the prompt, state), one at a time."""
    step = jax.jit(lambda state, *new: K.attention(cache, state, *new))
    _, state = step(
        cache.init(k.shape[0], k.shape[2], k.shape[3]), *(x[:, :prompt] for x in (q, k, v))
    )
    outs = []
    for i in range(prompt, q.shape[1]):
        out, state = step(state, *(x[:, i : i + 1] for x in (q, k, v)))
        outs.append(out)
    return jnp.concatenate(outs, 1), state


def test_the_law():
    state = check_cache(K.evict(K.h2o(), 12, sinks=2, recent=4), tolerance=None)
    kept = np.sort(np.asarray(state.positions), -1)
    assert (kept[..., :2] == [0, 1]).all() and (kept[..., -4:] == [20, 21, 22, 23]).all()


def test_within_the_budget_it_is_exact():
    q, k, v = qkv(24)
    out, state = decoded(K.evict(K.snapkv(), 24, recent=4), q, k, v, 16)
    expected = jax.nn.dot_product_attention(q, k, v, is_causal=True)[:, 16:]
    np.testing.assert_allclose(out, expected, atol=1e-5)
    assert (np.sort(np.asarray(state.positions), -1) == np.arange(24)).all()


def test_the_highest_scores_stay_of_those_that_came_and_those_that_come():
    """Against a loop over tokens, with scores that tokens carry in the first entry of their key."""
    carried = Score(
        lambda *_: ((), ()),
        lambda tokens, common, seen: (tokens, common),
        lambda tokens, common, seen: seen.keys[..., 0],
        False,
        "carried",
    )
    q, k, v = qkv(40)
    cache = K.evict(carried, 10, sinks=1, recent=3)
    append = jax.jit(lambda state, k, v, lengths: cache.append(state, k, v, lengths=lengths))
    state = cache.init(2, 2, 32)
    kept = [[set() for _ in range(2)] for _ in range(2)]
    length = [0, 0]
    for start, real in ((0, (8, 3)), (8, (8, 8)), (16, (1, 8)), (24, (8, 0)), (32, (5, 2))):
        state = append(state, k[:, start : start + 8], v[:, start : start + 8], jnp.array(real))
        for b in range(2):
            scores = {}
            for h in range(2):
                old = kept[b][h]
                new = {(length[b] + i, float(k[b, start + i, h, 0])) for i in range(real[b])}
                end = length[b] + real[b]

                def rank(item, end=end):
                    held = item[0] < 1 or item[0] >= end - 3
                    return (not held, -item[1])

                kept[b][h] = set(sorted(old | new, key=rank)[:10])
                scores[h] = {position for position, _ in kept[b][h]}
                found = set(np.asarray(state.positions[b, h]).tolist()) - {-1}
                assert found == scores[h]
            length[b] += real[b]
    for b, h, slot in np.ndindex(2, 2, 10):  # keys moved with their positions
        assert float(state.keys[b, h, slot, 0]) in {score for _, score in kept[b][h]}


def test_any_format_stores_what_is_kept():
    F = jc.formats
    cache = K.evict(K.recent(), 16, recent=8, encode=lambda x: F.quantize(x, F.UINT4, axes=-1))
    plain = K.evict(K.recent(), 16, recent=8)
    q, k, v = qkv(40)
    out, state = decoded(cache, q, k, v, 32)
    exact, other = decoded(plain, q, k, v, 32)
    np.testing.assert_array_equal(state.positions, other.positions)
    assert 0 < float(jnp.abs(out - exact).mean()) < 0.25 * float(jnp.abs(exact).mean())
    assert jc.tree.nbytes(state.keys) == 2 * 2 * 16 * (16 + 2 + 1)


def test_budgets_and_queries_that_are_missing_are_refused():
    for budget, options in ((0, {}), (8, {"sinks": 4, "recent": 5})):
        with pytest.raises(jc.UnsupportedInput, match="expected a budget"):
            K.evict(K.recent(), budget, **options)
    cache = K.evict(K.h2o(), 64)
    q, k, v = qkv(4)
    with pytest.raises(jc.UnsupportedInput, match="pass queries=q"):
        cache.append(cache.init(2, 2, 32), k, v)
    for wrong in (q[:, :3], q[:1], q[..., :16]):  # the first two would broadcast
        with pytest.raises(jc.UnsupportedInput, match=r"expected q \(2, 4,"):
            cache.append(cache.init(2, 2, 32), k, v, queries=wrong)
