"""What is written is what it was, and is computed once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.kernels.written import written


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.bfloat16, jnp.float32], ids=lambda x: x.__name__)
def test_every_value_stays(dtype):
    if dtype == jnp.uint8:
        x = np.arange(256, dtype=np.uint8)
    else:
        some = [0.0, -0.0, 1e-40, -3e38, 1.5, np.inf, -np.inf, np.nan]
        x = np.array([*some, *np.random.default_rng(0).normal(size=99)]).astype(dtype)
    y = np.asarray(jax.jit(written)(jnp.asarray(x)))
    assert y.tobytes() == x.tobytes()  # NaN, -0 and denormals too


def test_derivatives_pass():
    """Else a gradient through FRUGAL's columns would be zero, on CPUs alone."""
    x = jnp.arange(6.0).reshape(2, 3)
    rows = jax.vmap(jax.grad(lambda x: jnp.square(written(x)).sum()))
    np.testing.assert_array_equal(rows(x), 2 * x)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA on CPUs")
def test_what_is_read_several_times_is_in_memory():
    def nbytes(through):
        def step(x, y):
            x = through(x ^ 1)  # cheap: alone, computed wherever it is read
            return x + y, x.T + y, x[::-1] + y

        shape = jax.ShapeDtypeStruct((512, 512), jnp.uint8)
        return jax.jit(step).lower(shape, shape).compile().memory_analysis().temp_size_in_bytes

    assert nbytes(lambda x: x) < 512**2 <= nbytes(written)
