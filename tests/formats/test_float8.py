"""FP8: every bit pattern means what ml_dtypes says, and rounding is its cast."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.formats import format as grids
from tests.checks import check_leaf

F = jc.formats
rng = np.random.default_rng(0)
CASES = [(F.FP8_E4M3, ml_dtypes.float8_e4m3fn, 448.0), (F.FP8_E5M2, ml_dtypes.float8_e5m2, 57344.0)]


@pytest.mark.parametrize("format,dtype,most", CASES, ids=["e4m3", "e5m2"])
def test_codes_are_bit_patterns_and_rounding_is_a_cast(format, dtype, most):
    expected = np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32)
    np.testing.assert_array_equal(grids.levels(format), expected)
    assert grids.top(format) == most
    # All sizes, subnormal ones and ties among them; what lies beyond is clipped, never infinite.
    u = rng.normal(size=4096) * np.exp2(rng.integers(-20, 9, 4096))
    finite = np.sort(expected[np.isfinite(expected)])
    u = np.concatenate([u, (finite[1:] + finite[:-1]) / 2, [most * 2, -most * 2]]).astype(
        np.float32
    )
    codes = np.asarray(grids.nearest(jnp.asarray(u), format)).astype(np.uint8)
    np.testing.assert_array_equal(codes.view(dtype), u.clip(-most, most).astype(dtype))


@pytest.mark.parametrize("format", [F.FP8_E4M3, F.FP8_E5M2_TENSOR], ids=str)
def test_packed_products(format):
    w = rng.normal(size=(64, 6)).astype(np.float32) * np.array([1, 1e-3, 10, 1, 1, 0], np.float32)
    leaf = F.quantize(w, format)
    dense = check_leaf(leaf).astype(np.float32)
    np.testing.assert_array_equal(F.quantize(dense, format).dense(), dense)
    error = np.linalg.norm(dense - w, axis=0)[:-1] / np.linalg.norm(w, axis=0)[:-1]
    worst = 2.0 ** -(4 if format.table == F.FP8_E4M3.table else 3)  # half a step of the mantissa
    assert (error < worst).all() and (error > worst / 4).all()
    assert leaf.nbytes == w.size + (12 if format.group == -1 else 4)


def test_one_scale_in_all_loses_small_outputs_in_integers_only():
    w = rng.normal(size=(64, 2)).astype(np.float32) * np.array([1, 1e-3], np.float32)
    small = [
        jax.jit(lambda w, f=f: jnp.linalg.norm(F.quantize(w, f).dense()[:, 1] - w[:, 1]))(w)
        for f in (F.FP8_E4M3_TENSOR, F.INT8._replace(group=None))
    ]
    assert small[0] < 0.2 * small[1]
