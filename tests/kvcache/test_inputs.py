"""Lengths are cut to what is there, and what makes no cache, or fits none, is refused by name."""

import jax
import jax.numpy as jnp
import pytest

import jaxcomp as jc
from jaxcomp.kvcache.inputs import check_counts, check_tokens


def test_lengths_beyond_the_tokens_are_cut():
    k = jnp.zeros((2, 3, 1, 8))
    found = check_tokens(k, k, jnp.array([7, -1]), 2, 1, 8, jnp.float32)
    assert found.tolist() == [3, 0] and found.dtype == jnp.int32
    assert check_tokens(k, k, None, 2, 1, 8, jnp.float32).tolist() == [3, 3]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: check_counts(slots="a"), "slots to be a positive int, got 'a'"),
        (lambda: check_counts(0, window=2.0), "window to be an int of at least 0, got 2.0"),
        (lambda: jc.kvcache.kivi(-1), "slots to be a positive int, got -1"),
        (lambda: jc.kvcache.dense(8).init(1, 1, 8, jnp.int32), "floating dtype"),
        (lambda: jc.kvcache.evict(jc.kvcache.knorm(), 8, recent=2).init(1, 1, 8, int), "floating"),
    ],
)
def test_what_makes_no_cache_is_refused(build, words):
    with pytest.raises(jc.UnsupportedInput, match=words):
        build()


def test_more_tokens_than_slots_are_refused_where_all_are_said_to_count():
    cache = jc.kvcache.dense(4)
    state, new = jax.eval_shape(lambda: (cache.init(1, 1, 8), jnp.zeros((1, 5, 1, 8))))
    with pytest.raises(jc.CapacityError, match="at most 4 tokens, got 5"):
        jax.eval_shape(cache.append, state, new, new)
    some = jax.ShapeDtypeStruct((1,), jnp.int32)
    jax.eval_shape(lambda *x: cache.append(*x[:3], lengths=x[3]), state, new, new, some)
    ring = jc.kvcache.evict(jc.kvcache.knorm(), 4, sinks=0, recent=2)
    state = jax.eval_shape(lambda: ring.init(1, 1, 8))
    jax.eval_shape(ring.append, state, new, new)


def test_fresh_tokens_are_of_the_dtype_of_the_cache():
    cache = jc.kvcache.dense(4)
    state, new = jax.eval_shape(lambda: (cache.init(1, 1, 8), jnp.zeros((1, 2, 1, 8))))
    half = jax.ShapeDtypeStruct(new.shape, jnp.bfloat16)
    with pytest.raises(jc.UnsupportedInput, match="of float32, as init was told, got bfloat16"):
        jax.eval_shape(lambda s, q, x: cache.attend(s, q, fresh=(x, x)), state, new, half)


@pytest.mark.parametrize("build", [jc.kvcache.dense, jc.kvcache.rotated])
def test_what_is_no_array_of_floats_is_refused(build):
    cache = build(4)
    state, new = jax.eval_shape(lambda: (cache.init(1, 1, 8), jnp.zeros((1, 2, 1, 8))))
    ints = jax.ShapeDtypeStruct(new.shape, jnp.int32)

    def fresh(state, q, x):
        return cache.attend(state, q, fresh=(x, x))

    refused = [
        (lambda: jax.eval_shape(cache.attend, state, ints), "q to be an array of floats, got int"),
        (lambda: cache.append(state, None, None), "k to be an array of floats, got NoneType"),
        (lambda: jax.eval_shape(cache.append, state, new, ints), "v to be an array of floats"),
        (lambda: jax.eval_shape(fresh, state, new, ints), "fresh keys and values to be an array"),
    ]
    for call, words in refused:
        with pytest.raises(jc.UnsupportedInput, match=words):
            call()
