"""One layer against plain NumPy, in values and in gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.nets.fixed_point import FixedPoint, dequantise, quantise
from jaxcomp.nets.integer_layer import FEATURES, Options, float_layer, integers_of, run, train
from jaxcomp.nets.integer_weights import dequantise_weights

WIDE = FixedPoint(16, 7)


def _case(options, seed=0, size=(3, 3)):
    generator = np.random.default_rng(seed)
    x = dequantise(quantise(generator.normal(0, 2, (2, 6, 5, 8)), options.source), options.source)
    kernel = generator.normal(0, 0.2, (*size, 8 // options.groups, 6)).astype(np.float32)
    return x, jnp.asarray(kernel), jnp.asarray(generator.normal(0, 0.2, 6), jnp.float32)


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(relu=True),
        Options(groups=2, target=WIDE),
        Options(source=WIDE, target=FixedPoint(6, 1), weight_bits=16),
    ],
)
def test_values_are_those_of_exact_arithmetic_on_the_quantised_weights(options):
    x, kernel, bias = _case(options)
    layer = jax.jit(integers_of, static_argnums=2)(kernel, bias, options)
    weights = dequantise_weights(layer, source=options.source, target=options.target)
    units = 2.0 ** (np.asarray(layer.shift) + options.target.fraction)
    smooth = np.zeros((2, 6, 5, 6))
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    for g in range(options.groups):
        c, f = 8 // options.groups, 6 // options.groups
        for i in range(3):
            for j in range(3):
                seen = padded[:, i : i + 6, j : j + 5, g * c : (g + 1) * c]
                part = np.asarray(weights, np.float64)[i, j, :, g * f : (g + 1) * f]
                smooth[..., g * f : (g + 1) * f] += seen @ part
    smooth += np.asarray(layer.bias) / units
    low = 0 if options.relu else options.target.low
    wanted = np.clip(np.floor(smooth / options.target.step + 0.5), low, options.target.high)
    y = jax.jit(run, static_argnums=2)(layer, quantise(x, options.source), options)
    np.testing.assert_array_equal(y, wanted)
    assert y.dtype == options.target.dtype and len(np.unique(y)) > 5
    trained = jax.jit(train, static_argnums=3)(x, kernel, bias, options)
    np.testing.assert_array_equal(trained, wanted * options.target.step)


def test_the_gradient_is_that_of_the_float_layer_where_nothing_clips():
    options = Options(target=FixedPoint(16, 6), weight_bits=16)
    case = _case(options)
    direction = jax.random.normal(jax.random.key(0), (2, 6, 5, 6))

    def gradient(layer):
        smooth = jax.grad(lambda *a: (layer(*a, options) * direction).sum(), argnums=(0, 1, 2))
        return jax.jit(smooth)(*case)

    for got, wanted in zip(gradient(train), gradient(float_layer), strict=True):
        assert np.abs(wanted).max() > 1
        np.testing.assert_allclose(got, wanted, atol=2e-3)


def test_the_gradient_stops_at_a_clipped_output_unless_it_leads_back():
    options = Options(relu=True)
    x, kernel = jnp.ones((3, 1)), jnp.array([[1.0]])
    for bias, direction, passes in ((-5, 1, False), (-5, -1, False), (0, 1, True), (0, -1, True)):
        assert _moves(x, kernel, bias, direction, options) == passes
    assert _moves(x, kernel, 50, 1, options) and not _moves(x, kernel, 50, -1, options)


@functools.partial(jax.jit, static_argnums=4)
def _moves(x, kernel, bias, direction, options):
    bias = jnp.float32(bias)[None]
    return jax.grad(lambda b: direction * train(x, kernel, b, options).sum())(bias)[0] != 0


def test_a_layer_that_copies():
    """The identity limit: a unit kernel returns its input."""
    x = np.arange(-128, 128, dtype=np.int8).reshape(1, 16, 16, 1)
    layer = integers_of(jnp.ones((1, 1, 1, 1)), jnp.zeros(1), Options())
    np.testing.assert_array_equal(run(layer, x, Options()), x)
    assert FEATURES.low == -128
