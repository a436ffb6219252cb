"""Blocks on a grid: the contraction of integers, and what is on the grid comes back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp import optim
from tests.checks import check_compressor
from tests.optim.inputs import hard


def test_the_law():
    worst = np.full((1, 640), 0.499 / 7, np.float32)  # under half a step: all but one are lost
    worst[0, ::64] = 1
    method = optim.quantized(jc.formats.INT4, block=64)
    found = check_compressor(method, np.concatenate([hard(640), worst]))
    np.testing.assert_allclose(found.max(), 1 - method.contraction(640), rtol=0.05)  # nearly met


def test_what_is_on_the_grid_comes_back():
    x = jnp.arange(-7.0, 8).repeat(2)[:, None] * jnp.array([1, 0.5])
    method = optim.quantized(jc.formats.INT4, block=64)
    sent, _ = method.compress(None, x[:, 0], ())
    assert sent.nbytes == 16 + 2
    np.testing.assert_array_equal(method.decompress(sent), x[:, 0])


def test_any_grid_with_float_scales():
    x = jnp.asarray(hard()[0])
    errors = []
    for format in (jc.formats.INT4, jc.formats.NF4, jc.formats.INT8):
        method = optim.quantized(format, block=64)
        there = jax.jit(lambda x, m=method: m.decompress(m.compress(None, x, ())[0]))
        errors.append(float(jnp.square(there(x) - x).mean()))
    assert errors == sorted(errors, reverse=True)  # NF4 is for normals; int8 has four bits more
    with pytest.raises(jc.UnsupportedInput, match="symmetric"):
        optim.quantized(jc.formats.UINT4)
