"""FP4: e2m1 by bit pattern, ties as IEEE 754 has them, in every position of a byte."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np

import jaxcomp as jc
from jaxcomp.formats import format as grids
from jaxcomp.formats.float4 import E2M1
from tests.checks import check_leaf

F = jc.formats


def test_levels_are_those_of_the_standard():
    codes = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn)
    np.testing.assert_array_equal(np.asarray(E2M1), codes.astype(np.float32))


def test_rounding_equals_ml_dtypes():
    u = np.concatenate([np.linspace(-8, 8, 1025), [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]])
    u = np.concatenate([u, -u]).astype(np.float32)
    found = grids.value(grids.nearest(jnp.asarray(u), F.FP4), F.FP4)
    expected = u.clip(-6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    np.testing.assert_array_equal(found, expected)


def test_a_weight_on_the_grid_comes_back():
    w = np.random.default_rng(0).choice(E2M1, (64, 5)).astype(np.float32)
    w[0] = w[32] = -6
    leaf = F.quantize(w * 0.75, F.FP4_G32)
    np.testing.assert_array_equal(check_leaf(leaf), w * 0.75)
    assert leaf.nbytes == 64 * 5 // 2 + 2 * 5 * 2
