"""MX formats: the shared exponent of the standard, by an oracle on ml_dtypes, and exact bytes."""

import ml_dtypes
import numpy as np
import pytest

import jaxcomp as jc
from tests.checks import check_leaf

F = jc.formats
rng = np.random.default_rng(0)
CASES = [
    (F.MXFP4, ml_dtypes.float4_e2m1fn, 2, 6.0, 4.25),
    (F.MXFP8, ml_dtypes.float8_e4m3fn, 8, 448.0, 8.25),
    (F.MXFP8_E5M2, ml_dtypes.float8_e5m2, 15, 57344.0, 8.25),
]


@pytest.mark.parametrize("format,dtype,emax,most,bits", CASES, ids=lambda x: str(x))
def test_equals_the_standard(format, dtype, emax, most, bits):
    w = rng.normal(size=(4, 64)) * np.exp2(rng.integers(-30, 30, (4, 1)))
    w = w.astype(np.float32)
    w[0, 0] = 8.0  # exactly a power of two
    leaf = F.quantize(w, format, -1)
    groups = w.reshape(4, 2, 32)
    exponent = np.floor(np.log2(np.abs(groups).max(-1, keepdims=True).astype(np.float64))) - emax
    scale = np.exp2(exponent)
    element = (groups / scale).clip(-most, most).astype(dtype).astype(np.float64)
    np.testing.assert_array_equal(leaf.dense(), (element * scale).reshape(4, 64))
    np.testing.assert_array_equal(leaf.scales, (exponent + 127)[..., 0].astype(np.uint8))
    assert leaf.scales.dtype == np.uint8 and jc.tree.bits_per_weight(leaf) == bits
    check_leaf(leaf)
    np.testing.assert_array_equal(F.quantize(leaf.dense(), format, -1).dense(), leaf.dense())


def test_zeros_and_the_ends_of_the_range():
    w = np.zeros((96, 1), np.float32)
    w[32:64], w[64:] = 1e-38, 3e38
    dense = np.asarray(F.quantize(w, F.MXFP8).dense())
    assert (dense[:32] == 0).all() and np.isfinite(dense).all()
    np.testing.assert_allclose(dense[64:], 3e38, rtol=0.125)
