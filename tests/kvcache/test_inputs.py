"""Lengths are cut to what is there; the messages are tested with the caches that raise them."""

import jax.numpy as jnp

from jaxcomp.kvcache.inputs import check_tokens


def test_lengths_beyond_the_tokens_are_cut():
    k = jnp.zeros((2, 3, 1, 8))
    found = check_tokens(k, k, jnp.array([7, -1]), 2, 1, 8, jnp.float32)
    assert found.tolist() == [3, 0] and found.dtype == jnp.int32
    assert check_tokens(k, k, None, 2, 1, 8, jnp.float32).tolist() == [3, 3]
