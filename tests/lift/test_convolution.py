"""Convolutions of one to three dimensions, by patches, in every order of axes."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxcomp.formats import INT8, quantize
from jaxcomp.lift import lift
from tests.lift.cases import check_law, normal, scaled

HWIO = ("NHWC", "HWIO", "NHWC")
CASES = {  # shapes of x and w, packed axes, dimension numbers, options
    "same": ((2, 5, 6, 3), (3, 3, 3, 4), (0, 1, 2), HWIO, {}),
    "strides": ((2, 5, 6, 3), (3, 2, 3, 4), (0, 1, 2), HWIO, {"window_strides": (2, 3)}),
    "valid": ((2, 5, 6, 3), (3, 2, 3, 4), (0, 1, 2), HWIO, {"padding": "VALID"}),
    "dilation": ((2, 9, 9, 3), (3, 2, 3, 4), (0, 1, 2), HWIO, {"rhs_dilation": (2, 3)}),
    "padding": ((2, 5, 6, 3), (2, 2, 3, 4), (0, 1, 2), HWIO, {"padding": [(3, 0), (-1, 2)]}),
    "of torch": ((2, 3, 5, 6), (4, 3, 3, 3), (1, 2, 3), ("NCHW", "OIHW", "NCHW"), {}),
    "mixed": ((5, 2, 6, 3), (3, 4, 3, 2), (0, 2, 3), ("HNWC", "IOHW", "CWHN"), {}),
    "one dimension": ((2, 7, 3), (3, 3, 4), (0, 1), ("NWC", "WIO", "NWC"), {}),
    "three": ((1, 3, 4, 3, 2), (2, 2, 2, 2, 3), (0, 1, 2, 3), ("NDHWC", "DHWIO", "NDHWC"), {}),
    "1 x 1": ((2, 5, 6, 3), (1, 1, 3, 4), (0, 1, 2), HWIO, {"window_strides": (2, 2)}),
    "1 x 1 packed as a matrix": ((2, 5, 6, 3), (1, 1, 3, 4), (2,), HWIO, {}),
    "one channel in": ((2, 5, 6, 1), (3, 1, 1, 4), (0, 1, 2), HWIO, {}),
    "one channel out": ((2, 5, 6, 3), (3, 3, 3, 1), (0, 1, 2), HWIO, {}),
}


def _convolve(x, w, numbers, options):
    options = {"window_strides": (1,) * (x.ndim - 2), "padding": "SAME", **options}
    return lax.conv_general_dilated(x, w, dimension_numbers=numbers, **options)


@pytest.mark.parametrize("name", CASES)
def test_a_convolution_is_a_product_with_patches(name):
    x, w, axes, numbers, options = CASES[name]
    leaf = scaled(*w, axes=tuple(a - len(w) for a in axes))
    found = check_law(lambda w, x: _convolve(x, w, numbers, options), leaf, normal(*x))
    assert [row.operation for row in found.rows] == ["conv_general_dilated"]


LAYOUTS = {
    "stored as torch has it": ((4, 3, 3, 2), (1, 2, 3), lambda w: w.transpose(2, 3, 1, 0)),
    "1 x 1, transposed": ((4, 3, 1, 1), (1, 2, 3), lambda w: w.transpose(2, 3, 1, 0)),
    "a dense layer as 1 x 1": ((3, 4), (0,), lambda w: w[None, None]),
    "merged taps": ((6, 3, 4), (0, 1), lambda w: w.reshape(3, 2, 3, 4)),
    "heads of outputs": (
        (3, 2, 3, 2, 2),
        (0, 1, 2),
        lambda w: w.swapaxes(3, 4).reshape(3, 2, 3, 4),
    ),
    "some outputs": ((3, 2, 3, 6), (0, 1, 2), lambda w: w[..., 2:]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_kernel_may_be_laid_out_in_another_way(name):
    shape, axes, place = LAYOUTS[name]
    leaf = scaled(*shape, axes=tuple(a - len(shape) for a in axes))
    check_law(lambda w, x: _convolve(x, place(w), HWIO, {}), leaf, normal(2, 5, 6, 3))


def test_half_floats_and_what_is_asked_of_them():
    leaf, x = scaled(3, 3, 3, 4, axes=(-4, -3, -2)), normal(2, 5, 6, 3, dtype=jnp.bfloat16)
    for wanted in (None, jnp.float32):
        options = {"preferred_element_type": wanted}
        fn = lambda w, x: _convolve(x, w.astype(x.dtype), HWIO, options)  # noqa: B023, E731
        check_law(fn, leaf, x, tolerance=2**-7)


@pytest.mark.parametrize("shape", [(0, 5, 6, 3), (2, 2, 6, 3), (2, 1, 6, 3)])
def test_no_signals_and_signals_smaller_than_their_kernel_give_empty_results(shape):
    leaf = quantize(normal(3, 3, 3, 4), INT8, (0, 1, 2))
    fn = lambda w, x: _convolve(x, w, HWIO, {"padding": "VALID", "window_strides": (2, 1)})  # noqa: E731
    found = lift(fn)(leaf, jnp.zeros(shape))
    expected = jax.eval_shape(fn, leaf.dense(), jnp.zeros(shape))
    assert 0 in found.shape and (found.shape, found.dtype) == (expected.shape, expected.dtype)


AROUND = [(1, 1), (1, 1)]
OTHERS = {
    "grouped": ({"feature_group_count": 3}, (3, 3, 1, 6), "grouped"),
    "transposed": (
        {"lhs_dilation": (2, 2), "padding": [(1, 1), (1, 1)]},
        (3, 3, 3, 4),
        "transposed",
    ),
    "packed otherwise": ({}, (3, 3, 3, 4), "packed along"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_convolutions_say_why_they_are_dense(name):
    options, shape, why = OTHERS[name]
    axes = (-1,) if name == "packed otherwise" else (-4, -3, -2)
    leaf, x = scaled(*shape, axes=axes), normal(2, 5, 6, 3)
    found = check_law(lambda w, x: _convolve(x, w, HWIO, options), leaf, x, materialised=[""])
    assert why in found.rows[0].why
    signal = scaled(2, 5, 6, 3, axes=(-1,))
    found = check_law(
        lambda s, w: _convolve(s, w, HWIO, {}), signal, normal(3, 3, 3, 4), materialised=[""]
    )
    assert "signal" in found.rows[0].why
