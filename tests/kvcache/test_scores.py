"""Scores against loops in NumPy, and the bias that normalised attention is there to remove."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.kvcache.scores import Seen, attention_mass, probed
from tests.kvcache.inputs import qkv

K = jc.kvcache


def _seen(q, k, v):
    """All tokens of one sequence with one head of keys, that come at once."""
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    at = jnp.arange(k.shape[2])[None]
    return Seen(k, v, at[:, None], q[:, None], at)


def weights(x):
    """Softmax of all queries, [shared, new, tokens], in float64."""
    scores = np.einsum("gnd,td->gnt", np.float64(x.queries[0, 0]), np.float64(x.keys[0, 0])) / 4
    scores = np.where(np.asarray(x.positions[0]) <= np.asarray(x.at[0])[:, None], scores, -np.inf)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def value(score, x, size=16):
    known = score.init(1, 1, x.keys.shape[2], size)
    return np.asarray(score.value(*score.update(*known, x), x))[0, 0]


X = _seen(*qkv(150, batch=1, heads=1, shared=2, size=16))
WEIGHTS = weights(X)


def test_mass_is_the_attention_received():
    probes = X.at >= 0
    np.testing.assert_allclose(attention_mass(X, probes)[0, 0], WEIGHTS.sum((0, 1)), atol=1e-4)
    some = (X.at % 3) == 0
    expected = WEIGHTS[:, np.asarray(some[0])].sum((0, 1))
    np.testing.assert_allclose(attention_mass(X, some)[0, 0], expected, atol=1e-4)


def test_accumulated_and_normalised():
    np.testing.assert_allclose(value(K.h2o(), X), WEIGHTS.sum((0, 1)), atol=1e-4)
    able = np.arange(150, 0, -1)
    np.testing.assert_allclose(
        value(K.normalised_attention(), X), WEIGHTS.sum((0, 1)) / able, atol=1e-4
    )


def test_snapkv_is_the_attention_of_the_last_queries_with_neighbours():
    plain = WEIGHTS[:, -32:].sum((0, 1)) / 32
    np.testing.assert_allclose(value(K.snapkv(pool=1), X), plain, atol=1e-4)
    pooled = [plain[max(0, i - 2) : i + 3].max() for i in range(150)]
    np.testing.assert_allclose(value(K.snapkv(), X), pooled, atol=1e-4)


def test_expected_attention_is_that_of_normal_queries():
    q, k, v = np.asarray(X.queries[0, 0]), np.asarray(X.keys[0, 0]), np.asarray(X.values[0, 0])
    rows = q.reshape(-1, 16)
    many = np.random.default_rng(0).multivariate_normal(rows.mean(0), np.cov(rows.T), 400_000)
    expected = np.log(np.exp(many @ k[:8].T / 4).mean(0) * np.linalg.norm(v[:8], axis=-1))
    np.testing.assert_allclose(value(K.expected_attention(), X)[:8], expected, atol=0.05)


def test_positions_and_norms():
    np.testing.assert_array_equal(value(K.recent(), X), np.arange(150))
    np.testing.assert_allclose(value(K.knorm(), X), -np.linalg.norm(X.keys[0, 0], axis=-1), 1e-5)


def test_pieces_score_as_the_whole():
    """What is summed over queries does not depend on how they come."""
    score = K.h2o()
    state = score.init(1, 1, 150, 16)
    for start in range(0, 150, 30):
        there = (X.at >= start) & (X.at < start + 30)
        piece = X._replace(at=jnp.where(there, X.at, -1))
        state = score.update(*state, piece)
    np.testing.assert_allclose(score.value(*state, X)[0, 0], value(score, X), atol=1e-4)


def test_a_sum_favours_those_who_came_first_and_a_mean_does_not():
    """Tokens that every query looks for are anywhere: the mean finds more of them."""
    q, k, v = qkv(200, batch=1, heads=1, shared=1)
    wanted = np.sort(np.asarray(jax.random.permutation(jax.random.key(5), 200)[:50]))
    look = 4 * jnp.eye(32)[0]
    x = _seen(q + look, k.at[:, wanted].add(look), v)
    found, late = {}, wanted >= 100
    for score in (K.h2o(), K.normalised_attention()):
        kept = np.argsort(-value(score, x, 32))[:50]
        found[score.name] = np.isin(wanted, kept)[late].mean()
    assert found["normalised attention"] > found["h2o"] + 0.2


def test_a_few_probes_find_what_all_queries_read():
    """A tenth of the queries, at a tenth of the work; each token is divided by those after it."""
    score = K.normalised_attention(probes=0.1)
    few = probed(X, 15)
    at = np.asarray(few.at[0])
    assert (
        (at[-8:] == np.arange(149, 141, -1)).all() and (np.diff(at[:7]) > 0).all() and at[6] < 142
    )
    able = (at[:, None] >= np.arange(150)).sum(0)
    expected = WEIGHTS[:, at].sum((0, 1)) / np.maximum(able, 1)
    np.testing.assert_allclose(value(score, X), expected, atol=1e-4)
    short = probed(X._replace(at=jnp.where(X.at < 3, X.at, -1)), 15)  # of 3 queries that are there
    assert sorted(short.at[0].tolist()) == [-1] * 12 + [0, 1, 2]

    def work(score):
        run = jax.jit(lambda x: score.update(*score.init(1, 1, 150, 16), x)[0])
        return run.lower(X).compile().cost_analysis()["flops"]

    assert work(score) < 0.3 * work(K.normalised_attention())


def test_windows_are_checked():
    with pytest.raises(jc.UnsupportedInput, match="probes above 0"):
        K.normalised_attention(probes=0.0)
    with pytest.raises(jc.UnsupportedInput, match="odd pool"):
        K.snapkv(pool=4)


@pytest.mark.parametrize("score", [K.snapkv(), K.h2o(), K.normalised_attention()])
def test_scores_of_a_long_prompt_take_no_square_of_memory(score):
    def run(q, k, v):
        seen = _seen(q, k, v)
        return score.value(*score.update(*score.init(1, 1, 8192, 16), seen), seen)

    shapes = [jax.ShapeDtypeStruct((1, 8192, 1, 16), jnp.float32)] * 3
    memory = jax.jit(run).lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 8192 * 8192 / 2  # a block of queries is a sixteenth of it
