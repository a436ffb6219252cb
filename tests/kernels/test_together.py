"""Several results come out of one loop, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.kernels.together import together


def both(x, scales):
    y = jnp.sqrt(x) * scales
    return y, jnp.minimum(x, y)


def loops(fn, *arrays):
    """How many loops over whole arrays the program of fn has."""
    text = jax.jit(fn).lower(*arrays).compile().as_text()
    text = text[text.index("ENTRY") :]
    return sum("fusion(" in line and "wrapped" not in line for line in text.splitlines())


def test_results_are_those_of_the_function_from_one_loop():
    x = np.random.default_rng(0).normal(size=(8, 4, 96)).astype(np.float32)  # NaN where below 0
    x[0, 0, :3] = [np.inf, -0.0, 1e-40]
    scales = jnp.arange(1.0, 9)[:, None, None]
    one = jax.jit(lambda *arrays: together(both, *arrays))
    for got, expected in zip(one(x, scales), jax.jit(both)(x, scales), strict=True):
        np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))
    bits = lambda f: lambda *arrays: [y.view(jnp.uint32) for y in f(*arrays)]  # noqa: E731
    assert loops(bits(lambda *arrays: together(both, *arrays)), x, scales) == 1
    assert loops(bits(both), x, scales) == 2


def test_trees_of_bytes():
    x = {"a": jnp.arange(12, dtype=jnp.uint8).reshape(3, 4)}
    (a, b) = jax.jit(lambda x: together(lambda x: (x["a"] + 1, x["a"][:1] ^ x["a"]), x))(x)
    np.testing.assert_array_equal(a, x["a"] + 1)
    np.testing.assert_array_equal(b, x["a"][:1] ^ x["a"])
