"""A function whose weights matter very unequally: what allocation is for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc

SIZE = 64
_rng = np.random.default_rng(9)
BATCH = jnp.asarray(_rng.normal(size=(256, SIZE)) * _rng.lognormal(size=SIZE), jnp.float32)
STRENGTH = {"a": 1.0, "b": 0.02, "c": 0.2}


@functools.cache
def params():
    rng = np.random.default_rng(0)
    shapes = {"a": (SIZE, 64), "b": (SIZE, 64), "c": (SIZE, 64), "stack": (2, SIZE, 64)}
    w = {name: rng.normal(size=shape) / 8 for name, shape in shapes.items()}
    w["bias"] = rng.normal(size=64)
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), w)


@jax.jit
def model(w, x):
    """Products whose errors add up in the output: [n, 64] -> [n, 192]."""
    a, b, c = [(STRENGTH[name] * x) @ w[name] for name in "abc"]
    a, _ = jax.lax.scan(lambda h, k: (h + (0.5 * x) @ k, None), a + w["bias"], w["stack"])
    return jnp.concatenate([a, b, c], -1)


@functools.cache
def stats():
    return jc.observe(model, params(), [BATCH])
