"""Queries, keys and values that tests share."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from tests.drawn import drawn


def qkv(count, *, batch=2, heads=2, shared=2, size=32, dtype=jnp.float32, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = [(batch, count, n, size) for n in (heads * shared, heads, heads)]
    if dtype != jnp.float32:
        return [jax.random.normal(*each, dtype) for each in zip(keys, shapes, strict=True)]
    return [drawn(jax.random.normal, *each) for each in zip(keys, shapes, strict=True)]


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


def like_large_models(count, *, heads=2, shared=1, size=128, rank=4, noise=0.3, seed=0):
    """Queries, keys and values of one sequence as large models have them.

    Tokens lie near a space of few dimensions (Kang et al., GEAR, 2024, section 3); some channels of
    keys are large in every token (Liu et al., KIVI, 2024, figure 2: here 5 % of them, at 6 standard
    deviations), and single entries are, of both (Hooper et al., KVQuant, 2024, section 3.4: here
    0.5 %, at 8 times their size). Entries of keys have a kurtosis of about 10; a normal one is 3.
    """
    keys = iter(jax.random.split(jax.random.key(seed), 12))
    normal = lambda *shape: drawn(jax.random.normal, next(keys), shape)  # noqa: E731
    often = lambda share, *shape: drawn(jax.random.uniform, next(keys), shape) < share  # noqa: E731

    def tokens():
        low = normal(1, count, heads, rank), normal(heads, rank, size)
        x = jnp.einsum("bthr,hrd->bthd", *low) / rank**0.5 + noise * normal(1, count, heads, size)
        return x * jnp.where(often(0.005, 1, count, heads, size), 8.0, 1.0)

    k, v = tokens(), tokens()
    large = 6.0 * often(0.05, heads, size) * jnp.sign(normal(heads, size))
    return normal(1, count, heads * shared, size), k + large, v
