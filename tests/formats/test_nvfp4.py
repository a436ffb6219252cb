"""NVFP4: two levels of scales, the same error at every size of weights."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np

import jaxcomp as jc
from tests.checks import check_leaf

F = jc.formats
rng = np.random.default_rng(0)
W = rng.normal(size=(256, 64)).astype(np.float32)


def relative_rms(w, format):
    return float(np.linalg.norm(F.quantize(w, format).dense() - w) / np.linalg.norm(w))


def test_small_weights_lose_nothing_that_others_keep():
    one, small = relative_rms(W, F.NVFP4), relative_rms(W * 0.002, F.NVFP4)
    assert 0.08 < one < 0.1 and abs(small - one) < 0.001
    # The same scales of e4m3 without the global one.
    alone = W * np.float32(0.002)
    groups = alone.T.reshape(64, 16, 16)
    scale = (np.abs(groups).max(-1, keepdims=True) / 6).astype(ml_dtypes.float8_e4m3fn)
    scale = scale.astype(np.float32)
    divisor = np.where(scale == 0, 1, scale)
    near = (groups / divisor).clip(-6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float32) * scale
    assert np.linalg.norm(near - groups) / np.linalg.norm(groups) > 0.5


def test_scales_reach_the_top_of_e4m3_and_take_half_a_bit():
    leaf = F.quantize(W, F.NVFP4)
    scales = leaf.scales
    assert np.asarray(scales.codes).view(ml_dtypes.float8_e4m3fn).astype(np.float32).max() == 448
    assert scales.scales.size == 1 and leaf.nbytes == W.size // 2 + W.size // 16 + 2
    dense = check_leaf(leaf).astype(np.float32)
    np.testing.assert_array_equal(F.quantize(dense, F.NVFP4).dense(), dense)


def test_beats_one_level_of_powers_of_two():
    assert relative_rms(W, F.NVFP4) < 0.85 * relative_rms(W, F.MXFP4)


def test_a_group_of_zeros_does_not_stretch_the_scales():
    w = W * np.float32(1e-6)
    w[:16] = 0
    dense = np.asarray(F.quantize(w, F.NVFP4).dense())
    assert (dense[:16] == 0).all()
    assert jnp.linalg.norm(dense - w) < 0.1 * np.linalg.norm(w)
