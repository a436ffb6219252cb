"""In a model's place: prompts that see themselves exactly, in blocks; text that sees the cache."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from tests.kvcache.inputs import qkv

K = jc.kvcache


def test_a_prompt_is_exact_and_what_follows_is_not():
    q, k, v = qkv(65)
    cache = K.quantized(jc.formats.UINT4, 128)
    state = cache.init(2, 2, 32)
    expected = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    lengths = jnp.array([64, 40])
    out, state = K.attention(cache, state, *(x[:, :64] for x in (q, k, v)), lengths=lengths)
    np.testing.assert_allclose(out[0], expected[0, :64], atol=1e-5)
    np.testing.assert_allclose(out[1, :40], expected[1, :40], atol=1e-5)
    assert state.length.tolist() == [64, 40]
    out, state = K.attention(cache, state, *(x[:, 64:] for x in (q, k, v)))
    off = float(jnp.abs(out[0, 0] - expected[0, 64]).mean())
    assert 1e-4 < off < 0.25 * float(jnp.abs(expected[0, 64]).mean())


def test_a_second_prompt_sees_the_first_as_it_is_kept_and_itself_exactly():
    q, k, v = qkv(30)
    cache = K.dense(40)
    _, state = K.attention(cache, cache.init(2, 2, 32), *(x[:, :17] for x in (q, k, v)))
    out, _ = K.attention(cache, state, *(x[:, 17:] for x in (q, k, v)))
    expected = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    np.testing.assert_allclose(out, expected[:, 17:], atol=1e-5)


def test_long_prompts_go_by_in_blocks():
    q, k, v = qkv(1100, batch=1, heads=1, size=16)  # three blocks of queries, the last not full
    cache = K.dense(1100)
    run = jax.jit(lambda *x: K.attention(cache, cache.init(1, 1, 16), *x)[0])
    expected = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    np.testing.assert_allclose(run(q, k, v), expected, atol=1e-5)
