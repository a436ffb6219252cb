"""Integer convolution against sums written out in NumPy's int64."""

import jax
import numpy as np
import pytest

from jaxcomp.base import JaxcompError
from jaxcomp.nets.integer_product import convolve, digits, dot, native, patches_and_dot
from tests.checks import float_primitives

TYPES = {"int8": (-128, 127), "int16": (-32639, 32639)}


def _random(shape, name, seed=0):
    low, high = TYPES[name]
    return np.random.default_rng(seed).integers(low, high + 1, shape).astype(name)


def _plain(x, w, groups=1):
    """The sums modulo 2**32, as int32."""
    kh, kw, k, features = w.shape
    pads = [((size - 1) // 2, size // 2) for size in (kh, kw)]
    padded = np.pad(x.astype(np.int64), ((0, 0), *pads, (0, 0)))
    b, h, width, _ = x.shape
    total = np.zeros((b, h, width, features), np.int64)
    for g in range(groups):
        out = slice(g * features // groups, (g + 1) * features // groups)
        for i in range(kh):
            for j in range(kw):
                seen = padded[:, i : i + h, j : j + width, g * k : (g + 1) * k]
                total[..., out] += seen @ w[i, j, :, out].astype(np.int64)
    return total.astype(np.int32)


@pytest.mark.parametrize("x_type", TYPES)
@pytest.mark.parametrize("w_type", TYPES)
@pytest.mark.parametrize(
    "size, groups", [((3, 3), 1), ((1, 1), 1), ((2, 5), 1), ((3, 3), 2), ((3, 1), 6)]
)
def test_sums_are_exact(x_type, w_type, size, groups):
    x = _random((2, 5, 6, 6), x_type)
    w = _random((*size, 6 // groups, 6), w_type, seed=1)
    y = jax.jit(convolve, static_argnames="groups")(x, w, groups=groups)
    np.testing.assert_array_equal(y, _plain(x, w, groups))


def test_extremes_reach_past_the_mantissa_of_a_float():
    x, w = np.full((1, 4, 4, 300), -128, np.int8), np.full((3, 3, 300, 8), 127, np.int8)
    x[0, 1, 1, 0], w[1, 1, 0] = -127, 126
    y = np.asarray(convolve(x, w))
    np.testing.assert_array_equal(y, _plain(x, w))
    assert np.abs(y).max() > 1 << 24
    assert (y.astype(np.float32).astype(np.int64) != y).any()


@pytest.mark.parametrize("mask", [None, ((True, False, True), (False,) * 3, (False, True, True))])
def test_both_ways_agree(mask):
    x, w = _random((2, 6, 5, 7), "int8"), _random((3, 3, 7, 4), "int8", seed=1)
    if mask:
        w = w * np.array(mask, np.int8)[:, :, None, None]
    y = jax.jit(lambda x, w: patches_and_dot(x, w, mask))(x, w)
    np.testing.assert_array_equal(y, native(x, w))
    np.testing.assert_array_equal(convolve(x, w, mask=mask), y)


@pytest.mark.parametrize("rows", [1, 7, 8, 20])
def test_dot_of_few_rows(rows):
    x, w = _random((rows, 50), "int16"), _random((50, 3), "int8", seed=1)
    np.testing.assert_array_equal(dot(x, w), (x.astype(np.int64) @ w).astype(np.int32))


def test_every_product_is_int8_and_nothing_is_float():
    x, w = _random((1, 5, 6, 4), "int16"), _random((3, 3, 4, 4), "int16")
    assert not float_primitives(convolve, x, w)
    text = jax.jit(convolve).lower(x, w).as_text()
    products = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(products) == 1 and "xi8>" in products[0]
    assert "dot_general" not in text  # on a CPU; elsewhere it is the other way round
    gpu = jax.jit(convolve).trace(x, w).lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.convolution" not in gpu and "xi8>, tensor<" in gpu


def test_digits():
    x = np.arange(-32768, 32768, dtype=np.int32).astype(np.int16)
    high, low = (np.asarray(d).astype(np.int32) for d in digits(x))
    np.testing.assert_array_equal(256 * high + low, np.clip(x, -32639, 32639))


def test_refusals():
    x, w = np.zeros((1, 4, 4, 6), np.int8), np.zeros((3, 3, 4, 6), np.int8)
    with pytest.raises(JaxcompError, match="groups"):
        convolve(x, w)
    with pytest.raises(JaxcompError, match="expected 4 channels"):
        dot(x, np.zeros((4, 6), np.int8))
    with pytest.raises(JaxcompError, match="expected int8 or int16"):
        convolve(x[..., :4].astype(np.int32), w)
