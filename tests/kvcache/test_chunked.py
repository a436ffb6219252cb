"""The engine of most caches: whatever the chunks, attention is over the tokens that came."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.kvcache.chunked import chunked
from tests.drawn import drawn

PIECES = (7, 2, 1, 0, 1, 7, 7, 7, 7, 3), (0, 1, 7, 3, 1, 6, 7, 7, 7, 0)
BATCH, HEADS, SHARED, SIZE, SLOTS = 2, 2, 3, 8, 40


def tokens(key, count):
    keys = jax.random.split(jax.random.key(key), 3)
    shapes = [(BATCH, count, HEADS * g, SIZE) for g in (SHARED, 1, 1)]
    return [drawn(jax.random.normal, k, shape) for k, shape in zip(keys, shapes, strict=True)]


def exact(q, k, v, length, new):
    """Attention of the last `new` of `length` tokens of one sequence, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k[:length], v[:length]))
    k, v = (np.repeat(x, SHARED, 1) for x in (k, v))
    scores = np.einsum("nhd,thd->hnt", q[length - new : length], k) / SIZE**0.5
    seen = np.arange(length) <= (length - new + np.arange(new))[:, None]
    weights = np.exp(scores - scores.max(-1, keepdims=True)) * seen
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hnt,thd->nhd", weights, v)


@pytest.mark.parametrize(
    ("group", "window", "sinks"), [(1, 0, 0), (4, 0, 3), (4, 6, 0), (1, 6, 3), (3, 2, 1)]
)
def test_ragged_sequences_in_pieces(group, window, sinks):
    cache = chunked(
        SLOTS, lambda x: x, lambda x: x, group=group, window=window, sinks=sinks, name="plain"
    )
    state = cache.init(BATCH, HEADS, SIZE)
    step = jax.jit(
        lambda state, q, k, v, lengths: jc.kvcache.attention(cache, state, q, k, v, lengths=lengths)
    )
    seen = [np.zeros((BATCH, 100, HEADS * g, SIZE), np.float32) for g in (SHARED, 1, 1)]
    length = [0, 0]
    # Every fill of a chunk, pieces of several chunks, and of none.
    for number, real in enumerate(zip(*PIECES, strict=True)):
        new = tokens(number, 7)
        out, state = step(state, *new, jnp.array(real))
        for b, n in enumerate(real):
            for whole, piece in zip(seen, new, strict=True):
                whole[b, length[b] : length[b] + n] = piece[b, :n]
            length[b] += n
            assert bool(state.overflow[b]) == (length[b] > SLOTS)
            if n and length[b] <= SLOTS:
                expected = exact(*(x[b] for x in seen), length[b], n)
                np.testing.assert_allclose(out[b, :n], expected, atol=1e-5)
    assert max(length) > SLOTS >= min(length) > SLOTS - 7


def test_windows_longer_than_a_block_are_read_in_blocks():
    cache = chunked(1600, lambda x: x, lambda x: x, group=8, window=1200, name="plain")
    q, k, v = tokens(0, 1500)
    append = jax.jit(cache.append)
    state = append(
        append(cache.init(BATCH, HEADS, SIZE), k[:, :1499], v[:, :1499]),
        *(x[:, 1499:] for x in (k, v)),
    )
    out, _ = cache.attend(state, q[:, 1499:])
    for b in range(BATCH):
        np.testing.assert_allclose(out[b], exact(q[b], k[b], v[b], 1500, 1), atol=1e-5)


def test_states_under_vmap_are_not_copied_by_the_flush():
    cache = chunked(16384, lambda x: x, lambda x: x, group=8, window=8, name="plain")
    state = jax.eval_shape(jax.vmap(lambda _: cache.init(1, 1, SIZE)), jnp.zeros(2))
    new = jax.ShapeDtypeStruct((2, 1, 1, 1, SIZE), jnp.float32)
    append = jax.jit(jax.vmap(cache.append), donate_argnums=0)
    memory = append.lower(state, new, new).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.1 * jc.kvcache.nbytes(state)
