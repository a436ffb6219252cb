"""Integers: exact sizes of every constant, the error of each bit, and an independent rounding."""

import jax
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.formats import integer
from jaxcomp.formats.format import Format
from tests.checks import check_leaf

rng = np.random.default_rng(0)
W = rng.normal(size=(256, 6)).astype(np.float32)
CONSTANTS = {name: f for name, f in vars(integer).items() if isinstance(f, Format)}
BITS = {"TERNARY": 1.625}  # 26 bytes for tiles of 128


@pytest.mark.parametrize("name", CONSTANTS)
def test_bits_per_weight_are_exact(name):
    format = CONSTANTS[name]
    leaf = jax.eval_shape(lambda w: jc.formats.quantize(w, format), W)
    groups = 1 if format.group == -1 else 256 // format.group
    zero = 0 if format.zero is None else 8
    expected = BITS.get(name, format.bits) + (16 + zero) * groups / 256
    assert jc.tree.bits_per_weight(leaf) == expected
    assert getattr(jc.formats, name) is format


def test_integers_equal_an_independent_rounding():
    leaf = jc.formats.quantize(W, jc.formats.INT4_G32)
    groups = W.T.reshape(6, 8, 32)
    scale = np.abs(groups).max(-1, keepdims=True) / np.float32(7)
    scale = np.asarray(jax.numpy.asarray(scale, "bfloat16"), np.float32)
    expected = np.rint(groups / scale).clip(-7, 7) * scale
    np.testing.assert_array_equal(leaf.dense(), expected.reshape(6, 256).T)


def test_each_bit_halves_the_error():
    found = []
    for format in (integer.INT2_G64, integer.INT3_G64, integer.INT4_G64, integer.INT8_G128):
        dense = jc.formats.quantize(W, format).dense()
        found.append(float(((dense - W) ** 2).mean() ** 0.5))
    assert found[0] > 1.8 * found[1] > 3.6 * found[2] > 18 * found[3]


def test_a_zero_point_helps_what_leans_to_one_side():
    shifted = np.abs(W)
    errors = [
        float(((jc.formats.quantize(shifted, f).dense() - shifted) ** 2).mean())
        for f in (integer.INT4_G32, integer.UINT4_G32)
    ]
    assert errors[1] < errors[0] / 3


def test_ternary_fills_its_bytes():
    w = np.zeros((640, 1), np.float32)
    w[:3, 0] = 1, -1, 1
    leaf = jc.formats.quantize(w, integer.TERNARY._replace(tile=640))
    assert leaf.codes.size == 128 and 8 * leaf.codes.size / 640 == 1.6
    np.testing.assert_array_equal(check_leaf(leaf), w)
