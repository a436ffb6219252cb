"""Weights to integers: as fine as fits, and never a sum that int32 does not hold."""

import jax
import numpy as np
import pytest

from jaxcomp.base import JaxcompError
from jaxcomp.nets.fixed_point import FixedPoint
from jaxcomp.nets.integer_weights import dequantise_weights, quantise_weights

B8, B16, B24 = FixedPoint(8, 4), FixedPoint(16, 8), FixedPoint(24, 6)


def _worst_sum(layer, source):
    """The largest |sum + bias + half| over all inputs, in Python's integers."""
    weights = np.abs(np.asarray(layer.weights, np.int64)).reshape(-1, layer.weights.shape[-1])
    half = (1 << np.asarray(layer.shift, np.int64)) >> 1
    bias = np.abs(np.asarray(layer.bias, np.int64))
    return weights.sum(0) * 2 ** (source.bits - 1) + bias + half


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e-3, 0.1, 3.0, 1e3, 1e20])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("source, target", [(B8, B8), (B8, B24), (B16, B8), (B16, B16)])
def test_no_input_overflows(source, target, bits, scale):
    generator = np.random.default_rng(0)
    spread = scale * 4.0 ** generator.uniform(-3, 3, 40)
    for kernel in (generator.normal(0, spread, (3, 3, 192, 40)), np.ones((1728, 40)) * spread):
        bias = generator.normal(0, 1e6, 40).astype(np.float32)
        layer = quantise_weights(
            kernel.astype(np.float32), bias, source=source, target=target, weight_bits=bits
        )
        assert _worst_sum(layer, source).max() < 2**31
        assert (np.asarray(layer.shift) >= 0).all()
        assert (np.asarray(layer.shift) <= 30 - target.bits).all()


@pytest.mark.parametrize("bits, most", [(8, 2**-7), (16, 2**-14)])
def test_weights_are_as_fine_as_their_bits(bits, most):
    """Half a step, where a step is at most 2 / 2**bits of twice the largest of the channel."""
    kernel = np.random.default_rng(0).normal(0, 2.0 ** np.arange(-6, 6), (20, 12))
    layer = quantise_weights(
        kernel.astype(np.float32), np.zeros(12), source=B8, target=B8, weight_bits=bits
    )
    error = np.abs(dequantise_weights(layer, source=B8, target=B8) - kernel)
    fits = np.asarray(layer.shift) > 0
    relative = error.max(0) / np.abs(kernel).max(0)
    assert fits.sum() >= 9 and (relative[fits] <= most).all()
    one_scale = np.round(kernel / np.abs(kernel).max() * 127) * np.abs(kernel).max() / 127
    assert (np.abs(one_scale - kernel).max(0) / np.abs(kernel).max(0)).max() > 10 * most


def test_powers_of_two_are_exact_weights():
    kernel = np.array([[1.0, 0.5, -2.0], [0.25, -0.125, 1.5]], np.float32)
    bias = np.array([1.0, -3.0, 0.25], np.float32)
    layer = quantise_weights(kernel, bias, source=B8, target=B8)
    np.testing.assert_array_equal(dequantise_weights(layer, source=B8, target=B8), kernel)
    units = 2.0 ** (np.asarray(layer.shift) + B8.fraction)
    np.testing.assert_array_equal(np.asarray(layer.bias) / units, bias)


def test_the_same_integers_with_and_without_jit():
    kernel = np.random.default_rng(0).normal(0, 0.05, (5, 5, 64, 30)).astype(np.float32)
    bias = np.zeros(30, np.float32)

    def convert(kernel, bias):
        return quantise_weights(kernel, bias, source=B16, target=B16, weight_bits=16)

    jax.tree.map(
        np.testing.assert_array_equal, convert(kernel, bias), jax.jit(convert)(kernel, bias)
    )


def test_refusals():
    with pytest.raises(JaxcompError, match="8 or 16"):
        quantise_weights(np.ones((3, 3)), np.ones(3), source=B8, target=B8, weight_bits=4)
    with pytest.raises(JaxcompError, match="overflow int32"):
        quantise_weights(np.ones((2**16, 1)), np.ones(1), source=B16, target=B8)
