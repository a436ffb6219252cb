"""Blocks on a grid: the contraction of integers, and what is on the grid comes back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp import optim
from tests.checks_optim import check_compressor
from tests.optim.inputs import hard


def test_the_law():
    worst = np.full((1, 640), 0.499 / 7, np.float32)  # under half a step: all but one are lost
    worst[0, ::64] = 1
    method = optim.quantized(jc.formats.INT4, block=64)
    found = check_compressor(method, np.concatenate([hard(640), worst]))
    np.testing.assert_allclose(found.max(), 1 - method.contraction(640), rtol=0.05)  # nearly met


def test_what_is_on_the_grid_comes_back():
    x = jnp.asarray(np.arange(-7, 8, dtype=np.float32).repeat(2) / 2)
    method = optim.quantized(jc.formats.INT4, block=64)
    assert optim.wire_nbytes(method, x) == 16 + 2
    there = jax.jit(lambda x: method.decompress(method.compress(None, x, ())[0]))
    np.testing.assert_array_equal(there(x), x)


def test_any_grid_with_float_scales():
    x = jnp.asarray(hard()[0])
    methods = [optim.quantized(format, block=64) for format in (jc.formats.INT4, jc.formats.NF4)]
    back = jax.jit(lambda x: [m.decompress(m.compress(None, x, ())[0]) for m in methods])(x)
    int4, nf4 = (float(jnp.square(each - x).mean()) for each in back)
    assert nf4 < 0.7 * int4  # NF4 is for normals


def test_scales_that_gradients_can_leave_are_refused():
    for format in (
        jc.formats.UINT4,
        jc.formats.INT4._replace(scale="float16"),
        jc.formats.INT4._replace(scale="e8m0"),
    ):
        with pytest.raises(jc.UnsupportedInput, match="symmetric format whose scales are float32"):
            optim.quantized(format)
