"""Codes in and out of QTensors: the same leaf as formats makes, either way round."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.formats.qtensor import from_codes
from jaxcomp.io.grid_codes import codes_of, grid_of, grouped, plain, tensor

F = jc.formats
rng = np.random.default_rng(0)


@pytest.mark.parametrize("bits,size", [(8, 40), (4, 64), (3, 40), (F.TERNARY.bits, 21)])
def test_a_tensor_is_what_formats_makes(bits, size):
    format = F.TERNARY if bits == F.TERNARY.bits else F.Format(bits, offset=1 << (bits - 1))
    codes = rng.integers(0, 1 << bits if bits else 3, (5, size)).astype(np.uint8)
    scales = rng.random((5, 1)).astype(np.float32)
    leaf = tensor(codes, scales, None, format, np.float32)
    expected = from_codes(jnp.asarray(codes), jnp.asarray(scales), None, format, size=size)
    assert jax.tree.structure(leaf) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, leaf, expected)
    np.testing.assert_array_equal(codes_of(leaf), codes)


def test_a_kernel_in_out_is_turned_over():
    w = jnp.asarray(rng.standard_normal((64, 6)), jnp.float32)
    kernel = grid_of(F.quantize(w, F.UINT4_G32, -2), "a")
    turned = grid_of(F.quantize(w.T, F.UINT4_G32, -1), "a")
    for mine, other in zip(kernel[:3], turned[:3], strict=True):
        np.testing.assert_array_equal(mine, other)


def test_groups_in_any_order_are_sorted_and_found_again():
    codes = rng.integers(0, 16, (3, 64)).astype(np.uint8)
    scales = rng.random((3, 4)).astype(np.float32)
    order = rng.permutation(np.arange(64) // 16).astype(np.int32)
    format = F.INT4._replace(group=16, scale="float32")
    leaf = grouped(codes, order, 4, lambda codes: tensor(codes, scales, None, format, np.float32))
    expected = (codes.astype(np.float32) - 8) * scales[:, order]
    np.testing.assert_array_equal(leaf.dense(), expected)
    grid = grid_of(leaf, "a")
    np.testing.assert_array_equal(grid.order, order)
    np.testing.assert_array_equal(grid.codes, codes)


def test_names_and_tiles_do_not_matter():
    assert plain(F.NVFP4) == plain(F.NVFP4._replace(name="x", tile=16))


def test_refusals():
    with pytest.raises(UnsupportedInput, match="two axes in 'a'"):
        grid_of(F.quantize(jnp.ones((2, 3, 8)), F.INT8, -1), "a")
    with pytest.raises(CorruptStream, match="groups of one size"):
        grouped(np.zeros((2, 4), np.uint8), np.array([1, 0, 0, 0]), 2, lambda codes: codes)
    for order in (np.arange(4.0), np.full(4, 1 << 40), np.arange(3)):
        with pytest.raises(CorruptStream, match="4 inputs in 2 groups"):
            grouped(np.zeros((2, 4), np.uint8), order, 2, lambda codes: codes)
