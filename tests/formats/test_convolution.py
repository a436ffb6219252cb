"""conv: what lax gives for the dense kernel, in every order of axes, and refused where none is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from tests.lift.cases import QUICK, normal, scaled

F = jc.formats
HWIO = ("NHWC", "HWIO", "NHWC")
KERNEL = ((2, 5, 6, 3), (3, 2, 3, 4), (-4, -3, -2))
CASES = {  # shapes of x and w, packed axes, dimension numbers, options
    "strides": (*KERNEL, HWIO, {"padding": "SAME", "window_strides": (2, 3)}),
    "dilation": (*KERNEL, HWIO, {"padding": "SAME_LOWER", "rhs_dilation": (2, 3)}),
    "pairs": (*KERNEL, HWIO, {"padding": [(3, 0), (-1, 2)]}),
    "of torch": ((2, 3, 5, 6), (4, 3, 3, 3), (-3, -2, -1), None, {"padding": "VALID"}),
    "mixed": (
        (5, 2, 6, 3),
        (3, 4, 2, 2),
        (-4, -2, -1),
        ("HNWC", "IOHW", "CWHN"),
        {"padding": "VALID"},
    ),
    "one dimension": ((2, 7, 3), (3, 3, 4), (-3, -2), ("NWC", "WIO", "NWC"), {"padding": "SAME"}),
    "as a matrix": ((2, 5, 6, 3), (1, 1, 3, 4), (-2,), HWIO, {"padding": "SAME"}),
    "one channel out": ((2, 5, 6, 3), (3, 2, 3, 1), (-4, -3, -2), HWIO, {"padding": "VALID"}),
    "no signal": ((0, 2, 6, 3), (3, 2, 3, 4), (-4, -3, -2), HWIO, {"padding": "VALID"}),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_convolution_with_the_dense_kernel(name):
    x, w, axes, numbers, options = CASES[name]
    leaf, x = scaled(*w, axes=axes), normal(*x)
    given = {"window_strides": (1,) * (x.ndim - 2), **options}

    def both(x, leaf):
        dense = lax.conv_general_dilated(x, leaf.dense(), dimension_numbers=numbers, **given)
        return F.conv(x, leaf, dimension_numbers=numbers, **options), dense

    found, expected = jax.jit(both, compiler_options=QUICK)(x, leaf)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_packed_kernel_stays_packed_and_an_array_passes():
    w, x = normal(3, 3, 32, 4), normal(1, 4, 4, 32)
    leaf = F.quantize(w, F.INT4_G32, (0, 1, 2))
    run = jax.jit(lambda x, w: F.conv(x, w, padding="SAME", dimension_numbers=HWIO))
    assert "3x3x32x4xf32" not in run.lower(x, leaf).as_text()
    expected = run(x, leaf.dense())
    np.testing.assert_allclose(run(x, leaf), expected, atol=1e-4)
    assert jax.eval_shape(run, x.astype(jnp.bfloat16), leaf).dtype == jnp.bfloat16
    depthwise = F.conv(x, normal(3, 3, 1, 32), padding="SAME", dimension_numbers=HWIO, feature_group_count=32)  # fmt: skip  # noqa: E501
    assert depthwise.shape == x.shape


REFUSED = {
    "feature_group_count=1, got 3: a grouped": {"feature_group_count": 3},
    "batch_group_count=1, got 2: a grouped": {"batch_group_count": 2},
    r"lhs_dilation of 1, got \(2, 2\): a transposed": {"lhs_dilation": (2, 2)},
    'padding "SAME"': {"padding": "FULL"},
    r"padding as \(low, high\) for each of 2": {"padding": [1, 1]},
    r"strides and dilations of one number .* got .* \(2,\)": {"window_strides": (2,)},
    "a signal of 3 channels, .* got 5": {"x": (2, 5, 6, 5)},
    r"w packed along \(0, 1, 2\), .* got \(3,\)": {"axes": -1},
    "floating dtype, got int32": {"dtype": jnp.int32},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_no_product_is_named(message):
    options = {"padding": "SAME", "dimension_numbers": HWIO, **REFUSED[message]}
    axes, dtype = options.pop("axes", (-4, -3, -2)), options.pop("dtype", jnp.float32)
    x = jnp.zeros(options.pop("x", (2, 5, 6, 3)), dtype)
    leaf = scaled(3, 2, 3, 4, axes=axes if isinstance(axes, tuple) else (axes,))
    with pytest.raises(UnsupportedInput, match=message):
        F.conv(x, leaf, **options)
