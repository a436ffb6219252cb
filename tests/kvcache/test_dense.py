"""The plain cache: the law itself, under every transformation, and what it refuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxcomp as jc
from tests.checks import check_cache


def qkv(count, *, batch=2, heads=2, shared=3, size=16, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(count), 3)
    return [
        jax.random.normal(key, (batch, count, n, size), dtype)
        for key, n in zip(keys, (heads * shared, heads, heads), strict=True)
    ]


def test_the_law():
    cache = jc.kvcache.dense(24)
    state = check_cache(cache)
    assert jc.kvcache.nbytes(state) == 2 * 2 * 24 * 2 * 16 * 4 + 2 * (4 + 4 + 1)
    assert not state.overflow.any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_prompt_is_jaxs_attention(dtype):
    q, k, v = qkv(700, dtype=dtype)  # over several blocks
    cache = jc.kvcache.dense(1500)
    out, _ = jc.kvcache.attention(cache, cache.init(2, 2, 16, dtype), q, k, v)
    whole = (x.astype(jnp.float32) for x in (q, k, v))
    expected = jax.nn.dot_product_attention(*whole, is_causal=True)
    np.testing.assert_allclose(
        out.astype(jnp.float32), expected, atol=1e-5 if dtype == jnp.float32 else 0.02
    )


def test_rope_inside_attend_is_rope_before_append():
    def rope(x, positions):  # [b, h, t, d], [b, 1, t]
        angles = positions[..., None] * 10.0 ** -jnp.arange(8.0)
        even, odd = jnp.split(x, 2, -1)
        turned = even * jnp.cos(angles) - odd * jnp.sin(angles)
        return jnp.concatenate([turned, even * jnp.sin(angles) + odd * jnp.cos(angles)], -1)

    q, k, v = qkv(20)
    cache = jc.kvcache.dense(32)
    turned = rope(k.swapaxes(1, 2), jnp.arange(20)[None, None]).swapaxes(1, 2)
    expected, _ = jc.kvcache.attention(cache, cache.init(2, 2, 16), q, turned, v)
    out, _ = jc.kvcache.attention(cache, cache.init(2, 2, 16), q, k, v, rope=rope)
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_heads_shard():
    q, k, v = qkv(12, heads=4, shared=2)
    cache = jc.kvcache.dense(16)
    mesh = jax.make_mesh((4,), ("heads",), axis_types=(jax.sharding.AxisType.Auto,))

    def run(q, k, v):
        return jc.kvcache.attention(cache, cache.init(2, k.shape[2], 16), q, k, v)[0]

    split = P(None, None, "heads")
    # No value of the state's counters varies over heads, and shard_map cannot know.
    sharded = jax.shard_map(
        run, mesh=mesh, in_specs=(split, split, split), out_specs=split, check_vma=False
    )
    np.testing.assert_allclose(jax.jit(sharded)(q, k, v), run(q, k, v), atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_one_program_appends_at_any_length_and_grows_no_memory(dtype):
    cache = jc.kvcache.dense(8192)

    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def attention(state, q, k, v):
        return jc.kvcache.attention(cache, state, q, k, v)

    step = jax.jit(attention, donate_argnums=0)
    state = cache.init(2, 2, 16, dtype)
    q, k, v = qkv(1, dtype=dtype)
    for _ in range(3):
        pointers = {x.unsafe_buffer_pointer() for x in (state.keys, state.values)}
        _, state = step(state, q, k, v)
        assert {x.unsafe_buffer_pointer() for x in (state.keys, state.values)} == pointers
    memory = step.lower(state, q, k, v).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.5 * jc.kvcache.nbytes(state)  # a block, and no copy


def test_overflow_is_a_flag_and_touches_nothing_else():
    q, k, v = qkv(20)
    cache = jc.kvcache.dense(16)
    state = cache.append(cache.init(2, 2, 16), k[:, :10], v[:, :10])
    state = cache.append(state, k[:, 10:], v[:, 10:], lengths=jnp.array([6, 7]))
    assert state.overflow.tolist() == [False, True]
    np.testing.assert_array_equal(state.keys[0, :, :, 0], k[0, :16].swapaxes(0, 1))
    np.testing.assert_array_equal(state.keys[1, :, :, 0], k[1, :16].swapaxes(0, 1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda q, k, v: (q, k[..., :8], v), "expected k"),
        (lambda q, k, v: (q, k, v[:, :3]), "expected v"),
        (lambda q, k, v: (q, k.astype(jnp.bfloat16), v), "as init was told, got bfloat16"),
        (lambda q, k, v: (q[:, :, :5], k, v), "a multiple of 2"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    cache = jc.kvcache.dense(16)
    with pytest.raises(jc.UnsupportedInput, match=words):
        jc.kvcache.attention(cache, cache.init(2, 2, 16), *change(*qkv(5)))


def test_sizes_and_lengths_are_checked():
    with pytest.raises(jc.UnsupportedInput, match="slots to be a positive int, got 0"):
        jc.kvcache.dense(0).init(1, 1, 8)
    cache = jc.kvcache.dense(16)
    _, k, v = qkv(5)
    with pytest.raises(jc.UnsupportedInput, match=r"lengths i32\[2\]"):
        cache.append(cache.init(2, 2, 16), k, v, lengths=jnp.array([1, 2, 3]))
