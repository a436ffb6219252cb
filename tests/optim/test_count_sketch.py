"""Buckets that share: right on average over keys, with the error of chance meetings."""

import jax.numpy as jnp
import numpy as np

from jaxcomp import optim
from tests.checks_optim import check_compressor
from tests.optim.inputs import hard


def test_the_law_and_the_variance_of_the_theory():
    errors = check_compressor(optim.count_sketch(0.25), hard())
    np.testing.assert_allclose(errors[[0, 4]], 599 / 150, rtol=0.1)


def test_shrunk_it_contracts():
    errors = check_compressor(optim.count_sketch(0.25, unbiased=False), hard())
    np.testing.assert_allclose(errors[[0, 4]], 1 - 1 / (1 + 599 / 150), rtol=0.02)


def test_it_is_linear_and_one_float_for_each_bucket():
    sketch = optim.count_sketch(0.1)
    x, key = jnp.asarray(hard(200)[:2]), jnp.array([1, 2], jnp.uint32)
    a, b, both = (sketch.compress(key, y, ())[0].parts["sketch"] for y in (x[0], x[1], x.sum(0)))
    np.testing.assert_allclose(a + b, both, rtol=1e-4, atol=1e-5)
    assert optim.wire_nbytes(sketch, x[0]) == 20 * 4 + 8
