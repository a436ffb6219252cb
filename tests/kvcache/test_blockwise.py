"""The walk over blocks, against softmax in one piece."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.kvcache.blockwise import NOWHERE, Segment, attend
from tests.kvcache.inputs import qkv


def test_segments_in_any_order_with_holes_are_one_softmax():
    key = jax.random.split(jax.random.key(0), 5)
    q = 8 * jax.random.normal(key[0], (2, 3, 4, 16))  # sharp: the running maximum moves
    k, v = jax.random.normal(key[1], (2, 2, 2, 1300, 16))
    positions = jax.random.permutation(key[2], 1300)[None, None].repeat(2, 0).repeat(2, 1)
    positions = jnp.where(jax.random.uniform(key[3], positions.shape) < 0.2, NOWHERE, positions)
    at = jnp.array([[500, 501, 1299], [0, 3, 700]])

    def segment(first, last):
        def read(start, count):
            cut = [
                jax.lax.dynamic_slice_in_dim(x[:, :, first:last], start, count, 2) for x in (k, v)
            ]
            return *cut, jax.lax.dynamic_slice_in_dim(positions[..., first:last], start, count, 2)

        return Segment(read, last - first, 1, jnp.int32(last - first))

    out = attend(q, at, [segment(600, 1300), segment(0, 600)], 2)
    scores = (
        np.einsum("bnhgd,bhtd->bhgnt", np.float64(q).reshape(2, 3, 2, 2, 16), np.float64(k)) / 4
    )
    seen = (positions[:, :, None] <= at[:, None, :, None]) & (positions > NOWHERE)[:, :, None]
    scores = np.where(np.asarray(seen)[:, :, None], scores, -1e30)
    weights = np.exp(scores - scores.max(-1, keepdims=True)) * np.asarray(seen)[:, :, None]
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-300)
    expected = np.einsum("bhgnt,bhtd->bnhgd", weights, np.float64(v)).reshape(q.shape)
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_a_query_that_sees_nothing_reads_zero():
    empty = jnp.full((1, 1, 8), NOWHERE)
    some = jnp.ones((1, 1, 8, 16))
    segment = Segment(lambda start, count: (some, some, empty), 8, 1, jnp.int32(8))
    out = attend(jnp.ones((1, 1, 1, 16)), jnp.zeros((1, 1), jnp.int32), [segment], 1)
    np.testing.assert_array_equal(out, 0)


def test_fresh_tokens_are_those_of_the_queries():
    cache = jc.kvcache.dense(8)
    q, k, v = qkv(5)
    for wrong in (k[:, :3], jnp.concatenate([k, k], 1), k[:, :, :1]):
        with pytest.raises(jc.UnsupportedInput, match="expected fresh keys and values"):
            cache.attend(cache.init(2, 2, 32), q, fresh=(wrong, wrong))
