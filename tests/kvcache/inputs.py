"""Queries, keys and values that tests share."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc


def qkv(count, *, batch=2, heads=2, shared=2, size=32, dtype=jnp.float32, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    return [
        jax.random.normal(key, (batch, count, n, size), dtype)
        for key, n in zip(keys, (heads * shared, heads, heads), strict=True)
    ]


def error(cache, q, k, v):
    """Of the attention over what the cache holds, relative to that of exact keys and values."""
    state = cache.init(k.shape[0], k.shape[2], k.shape[3])

    @jax.jit
    def run(state, q, k, v):
        return jc.kvcache.attention(cache, state, q, k, v, exact_prompt=False)

    out, state = run(state, q, k, v)
    expected = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    off = np.square(np.asarray(out - expected)).mean() / np.square(np.asarray(expected)).mean()
    return float(off) ** 0.5, state


def with_outliers(k, *, every=16, by=8.0):
    """Keys with channels that are large in every token, as those of large models have."""
    return k.at[..., ::every].multiply(by)
