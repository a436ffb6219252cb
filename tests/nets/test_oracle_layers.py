"""Layers against tensorflow-compression's: GDN in each form, strided convolutions by blocks.

Within 2e-6 of the largest output, both in float32.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcomp.nets import gdn
from jaxcomp.nets.resample import depth_to_space, space_to_depth
from tests.oracle.reference import load

LAYERS = load("layers")


def close(ours, theirs):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=2e-6 * np.abs(theirs).max(), rtol=2e-6)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("form", ["simplified", "classic"])
def test_gdn(form, inverse):
    """Their gamma[j, i] is our gamma[i, j]."""
    case = LAYERS["gdn"]
    x, beta, gamma = (jnp.asarray(case[name]) for name in ("x", "beta", "gamma"))
    simplified = form == "simplified"
    norm = gdn.activity(x, beta, gamma.T, simplified=simplified)
    theirs = case[f"{form}_inverse" if inverse else form]
    close(x * norm if inverse else x / norm, theirs)
    # The module, given the roots of the same parameters.
    roots = {"beta": jnp.sqrt(beta + 2.0**-36), "gamma": jnp.sqrt(gamma.T + 2.0**-36)}
    layer = gdn.GDN(inverse=inverse, simplified=simplified)
    close(layer.apply({"params": roots}, x), theirs)


def test_gdn_starts_where_theirs_does():
    start = gdn.GDN().init(jnp.uint32([0, 0]), jnp.zeros((1, 4)))["params"]
    close(start["gamma"] ** 2, LAYERS["gdn"]["default_gamma"])
    case = LAYERS["gdn_parameter"]
    close(jnp.sqrt(jnp.asarray(case["start"]) + 2.0**-36), case["variable"])


def blocks(kernel):
    """[5, 5, in, out] padded to 6 x 6 -> [3, 2, 3, 2, in, out]: block, pixel in it, twice."""
    padded = np.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    return padded.reshape(3, 2, 3, 2, *kernel.shape[2:])


def convolve(x, kernel):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=dimensions, precision="highest"
    )


def test_a_strided_convolution_is_a_smaller_one_on_blocks():
    """SignalConv2D(5, strides_down=2, corr=True, padding="same_zeros")."""
    case = LAYERS["signal_conv"]
    x = np.pad(case["x"], ((0, 0), (0, 1), (0, 0), (0, 0)))  # rows to an even number
    kernel = blocks(case["kernel"]).transpose(0, 2, 1, 3, 4, 5).reshape(3, 3, 16, 3)
    close(convolve(space_to_depth(x, 2), kernel), case["down_zeros"])


def test_a_transposed_convolution_is_one_before_depth_to_space():
    """SignalConv2D(5, strides_up=2, corr=False, padding="same_zeros")."""
    case = LAYERS["signal_conv"]
    taps = blocks(case["kernel"])[::-1, :, ::-1]  # a convolution's taps run backwards
    kernel = taps.transpose(0, 2, 4, 1, 3, 5).reshape(3, 3, 4, 12)
    close(depth_to_space(convolve(jnp.asarray(case["x"]), kernel), 2), case["up_zeros"])
