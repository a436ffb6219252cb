"""Sub-pixel resampling: numbers only move, and a strided convolution is one of its kinds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcomp.base import JaxcompError
from jaxcomp.nets.integer import IntegerConv
from jaxcomp.nets.resample import Downsample, Upsample, depth_to_space, space_to_depth
from tests.nets.cases import check_one_trace, check_trained_as_run, random_variables

X = np.random.default_rng(0).normal(size=(2, 6, 12, 3)).astype(np.float32)


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_they_are_inverses_and_only_move(factor, dtype):
    x = np.arange(X.size).reshape(X.shape).astype(dtype)
    y = space_to_depth(x, factor)
    assert y.dtype == dtype and y.shape == (2, 6 // factor, 12 // factor, 3 * factor**2)
    np.testing.assert_array_equal(depth_to_space(y, factor), x)
    for i in range(factor):
        for j in range(factor):
            start = 3 * (i * factor + j)
            np.testing.assert_array_equal(y[..., start : start + 3], x[:, i::factor, j::factor])


def test_no_batch_and_many():
    np.testing.assert_array_equal(space_to_depth(X[0], 2), space_to_depth(X, 2)[0])
    np.testing.assert_array_equal(space_to_depth(X[None], 2)[0], space_to_depth(X, 2))


def test_a_patch_convolution_is_a_strided_one():
    """The identity limit: kernel 1x1 after space_to_depth is a 2x2 kernel of stride 2."""
    net = Downsample(7, 2, kernel_size=(1, 1))
    variables = random_variables(net, X)
    kernel = variables["params"]["layer"]["kernel"].reshape(2, 2, 3, 7)
    strided = lax.conv_general_dilated(
        X, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    bias = variables["params"]["layer"]["bias"]
    np.testing.assert_allclose(net.apply(variables, X), strided + bias, atol=1e-5)


def test_upsampling_starts_without_a_checkerboard():
    """The paper's claim, and what an ordinary start does."""
    key = jax.random.key(0)
    net = Upsample(4)
    y = net.apply(jax.jit(net.init)(key, X), X)
    assert y.shape == (2, 12, 24, 4)
    np.testing.assert_array_equal(y, np.repeat(np.repeat(y[:, ::2, ::2], 2, 1), 2, 2))
    y = net.apply(random_variables(net, X), X)
    assert np.abs(y[:, ::2] - y[:, 1::2]).max() > 0.1


def test_integers_as_trained():
    check_trained_as_run(Upsample(5, layer=functools.partial(IntegerConv, relu=True)), X)


def test_one_trace():
    check_one_trace(Downsample(4), X)


def test_refusals():
    with pytest.raises(JaxcompError, match="pad the image"):
        space_to_depth(X, 5)
    with pytest.raises(JaxcompError, match="choose a multiple"):
        depth_to_space(jnp.asarray(X), 2)
