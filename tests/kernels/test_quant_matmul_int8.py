"""Integer activations times a packed weight: exact in integers, straight through in gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.base import UnsupportedInput
from jaxcomp.kernels import quant_matmul, quant_matmul_int8
from jaxcomp.kernels.packing import TRITS
from tests.kernels.quant_cases import QUICK, case


def _jit(function, **options):
    return jax.jit(functools.partial(function, **options), compiler_options=QUICK)


def _rounded(x):
    """Rows of x rounded to 127 levels on either side, by NumPy."""
    x = np.asarray(x)
    scale = np.abs(x).max(1, keepdims=True) / np.float32(127)
    return np.clip(np.round(x / scale), -127, 127), scale


def _close(got, expected, tolerance=1e-6):
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize(
    "bits, axis, group, zeros",
    [
        (8, 0, -1, False),
        (8, 1, 32, True),
        (4, 1, -1, False),
        (4, 0, 32, True),
        (TRITS, 1, 32, False),
    ],
)
def test_the_product_is_that_of_the_rounded_rows(bits, axis, group, zeros):
    each = case(bits, axis, group=group, zeros=zeros)
    got = _jit(quant_matmul_int8.run, **each.options)(each.x, each.codes, each.scales, each.zeros)
    integers, scale = _rounded(each.x)
    expected = (integers * scale) @ each.weight
    _close(got, expected)
    assert np.abs(expected - each.x @ each.weight).max() > 1e-4 * np.abs(expected).max()


def test_activations_that_are_integers_already():
    each = case(8, 0, group=-1)
    integers, scale = _rounded(each.x)
    run = _jit(quant_matmul_int8.run_quantised, **each.options, dtype=jnp.bfloat16)
    got = run(integers.astype(np.int8), scale, each.codes, each.scales)
    assert got.dtype == jnp.bfloat16
    _close(np.asarray(got, np.float64), (integers * scale) @ each.weight, 2**-8)


def test_a_row_of_zeros_stays_zero():
    codes, scale = quant_matmul_int8.quantise(jnp.zeros((2, 5)))
    assert not codes.any() and not scale.any()


def test_the_gradient_is_that_of_the_product_without_rounding():
    each = case(4, 0, zeros=True)
    arguments = (each.x, each.scales, each.zeros)

    def gradient(run):
        def total(x, scales, zeros):
            return jnp.sin(jnp.arange(21)) @ run(x, each.codes, scales, zeros, **each.options)[0]

        return jax.jit(jax.grad(total, argnums=(0, 1, 2)), compiler_options=QUICK)(*arguments)

    for a, b in zip(gradient(quant_matmul_int8.run), gradient(quant_matmul.run), strict=True):
        _close(a, b, 1e-5)


def test_vmap_is_one_product_with_more_rows():
    each = case(8, 1, group=-1)
    run = functools.partial(quant_matmul_int8.run, **each.options)
    x = jnp.stack([each.x, each.x[::-1]])
    got = jax.vmap(run, (0, None, None))(x, each.codes, each.scales)
    integers, scale = _rounded(x[1])
    _close(got[1], (integers * scale) @ each.weight)


def test_bytes_that_are_not_integers_are_refused():
    each = case(8, 0, group=-1)
    with pytest.raises(UnsupportedInput, match="int8 codes"):
        quant_matmul_int8.run(
            each.x, jnp.asarray(each.codes).astype(jnp.uint8), each.scales, **each.options
        )
