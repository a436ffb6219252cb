"""KIVI: where channels are outliers, keys by channel keep what keys by token lose."""

import numpy as np
import pytest

import jaxcomp as jc
from tests.checks import check_cache
from tests.kvcache.inputs import error, qkv, with_outliers

F = jc.formats


def test_the_law():
    state = check_cache(jc.kvcache.kivi(24, bits=4, group=4, window=4), tolerance=0.15)
    assert state.keys.codes.shape == (2, 2, 5, 2, 16)  # chunks of 4 tokens in 2 bytes a channel


def test_two_bits_by_channel_beat_two_bits_by_token_in_fewer_bytes():
    q, k, v = qkv(160, size=64)
    k = with_outliers(k)
    # Both in groups of 32 with a scale and a zero of 16 bits, every token packed.
    ours, state = error(jc.kvcache.kivi(160, window=0), q, k, v)
    naive, other = error(
        jc.kvcache.quantized(F.UINT2_G16._replace(group=32, zero="bfloat16"), 160), q, k, v
    )
    assert jc.tree.nbytes(state.keys) == jc.tree.nbytes(other.keys)
    assert ours < 0.75 * naive


def test_the_window_is_exact():
    q, k, v = qkv(40)
    off, state = error(jc.kvcache.kivi(64, window=64), q, k, v)
    assert off < 1e-6 and state.keys.shape[2] == 0
    np.testing.assert_array_equal(state.window_keys[:, :, :40], k.swapaxes(1, 2))


def test_what_makes_no_groups_is_refused():
    for wrong in ({"bits": 5}, {"group": 3}, {"window": -1}):
        with pytest.raises(jc.UnsupportedInput, match="bits of 1, 2, 3, 4, 8"):
            jc.kvcache.kivi(64, **wrong)
