"""Tokens rounded by themselves: the law, the bytes, more bits less error, and a format per side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from tests.checks import check_cache
from tests.kvcache.inputs import error, qkv

F = jc.formats


def test_the_law():
    cache = jc.kvcache.quantized(F.UINT4, 24)
    state = check_cache(cache, tolerance=0.15, alone=False)
    tokens = 2 * 24 * 2  # of all sequences and heads
    assert jc.tree.nbytes(state.keys) == tokens * (16 // 2 + 2 + 1)  # codes, scale, zero


def test_what_is_stored_is_what_the_format_makes_of_each_token():
    _, k, v = qkv(9)
    cache = jc.kvcache.quantized(F.INT4, 16)
    state = cache.append(cache.init(2, 2, 32), k[:, :5], v[:, :5])
    state = cache.append(state, k[:, 5:], v[:, 5:])
    stored = state.keys.dense()[:, :, :9, 0].swapaxes(1, 2)
    np.testing.assert_array_equal(stored, F.quantize(k, F.INT4, axes=-1).dense())


def test_more_bits_less_error_and_values_may_take_others():
    q, k, v = qkv(64)
    formats = F.UINT2, F.UINT4, F.FP8_E4M3
    two, four, fp8 = (error(jc.kvcache.quantized(f, 64), q, k, v)[0] for f in formats)
    assert fp8 < four < 0.5 * two
    mixed, state = error(jc.kvcache.quantized(F.UINT8, 64, values=F.UINT4), q, k, v)
    assert mixed < four
    assert state.keys.format.bits == 8 and state.values.format.bits == 4


def test_formats_that_tokens_would_share_are_refused():
    with pytest.raises(jc.UnsupportedInput, match="scales per token"):
        jc.kvcache.quantized(F.INT4._replace(group=None), 16)


def test_a_group_that_does_not_divide_the_head_says_so():
    with pytest.raises(jc.UnsupportedInput, match="128"):
        jc.kvcache.quantized(F.INT4_G128, 16).init(1, 1, 48)
    odd = jc.kvcache.quantized(F.INT4, 16).init(1, 1, 7)
    out, _ = jc.kvcache.attention(
        jc.kvcache.quantized(F.INT4, 16), odd, *qkv(3, batch=1, heads=1, size=7)
    )
    assert jnp.isfinite(out).all() and jax.tree.leaves(odd)[0].shape[-1] == 4


def test_by_channel_over_tokens_large_channels_cost_nothing():
    q, k, v = qkv(64)
    large = k.at[..., ::16].add(20.0)
    by_token, _ = error(jc.kvcache.quantized(F.UINT4, 64), q, large, v)
    by_channel, state = error(jc.kvcache.quantized(F.UINT4, 64, over=16), q, large, v)
    assert by_channel < 0.5 * by_token
    assert jc.tree.nbytes(state.keys) == 2 * 2 * 4 * 32 * (16 // 2 + 2 + 1)  # codes, scale, zero
