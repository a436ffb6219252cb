"""Rotations: vectors turn where they are whole, and not where one entry goes another way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.lift.symmetry import symmetries
from tests.lift.symmetry_cases import check, weights

W = weights(a=(4, 4), b=(4, 4), c=(4, 4), g=(4,), t=(3, 4))
X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)


def _turned(x):
    return jnp.concatenate([x[:, :2], jnp.roll(x, 1, 0)[:, 2:]], 1)


def _crossed(x):
    """One entry of a vector, another of its neighbour, and then the other way round."""
    other = jnp.roll(x, 1, 0)
    return jnp.concatenate([x[:, :1], other[:, 1:], other[:, :1], x[:, 1:]], 1)


ROTATED = {
    "a plain product": (lambda p, x: (x @ p["a"]) @ p["b"], [4]),
    "sums over tokens": (lambda p, x: jnp.tril(jnp.ones((3, 3))) @ (x @ p["a"]) @ p["b"], [4]),
    "two halves": (
        lambda p, x: (h := x @ p["a"])[:, :2] @ p["b"][:2] + h[:, 2:] @ p["c"][:2],
        [2, 2],
    ),
    "a factor for each half": (
        lambda p, x: ((x @ p["a"]) * jnp.asarray([1.0, 1.0, 2.0, 2.0])) @ p["b"],
        [2, 2],
    ),
    "other tokens for half of it": (lambda p, x: _turned(x @ p["a"]) @ p["b"], [2, 2]),
    "a nonlinearity": (lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], []),
    "an entry that is seen": (
        lambda p, x: (x @ p["a"]) @ p["b"] + jnp.tanh((x @ p["a"])[:, :1]),
        [3],
    ),
    "a mean": (lambda p, x: (h := x @ p["a"]) @ p["b"] + jnp.tanh(h.mean(-1, keepdims=True)), []),
    "an entry twice": (lambda p, x: (x @ p["a"])[:, jnp.asarray([0, 1, 2, 0])] @ p["b"], [2]),
    "neighbours added": (lambda p, x: ((h := x @ p["a"]) + jnp.roll(h, 1, 1)) @ p["b"], []),
    "vectors of which one is scaled": (
        lambda p, x: jnp.concatenate([(h := x @ p["a"])[:, :2], 2 * h[:, 2:]], 1) @ p["b"],
        [2, 2],
    ),
    "a bias": (lambda p, x: (x @ p["a"] + p["g"] + p["t"]) @ p["b"], [4]),
    "a table": (lambda p, x: p["t"][jnp.argmax(x, 1)] @ p["b"], [4]),
    "a gain for each token": (lambda p, x: ((x @ p["a"]) * p["t"]) @ p["b"], []),
    "two vectors in another order": (lambda p, x: _crossed(x @ p["a"][:, :2]) @ p["b"], []),
    "a gain with other readers": (lambda p, x: (h := (x @ p["a"]) * p["g"]) @ p["b"] + h**2, []),
}


@pytest.mark.parametrize("name", ROTATED)
def test_vectors_turn_only_where_they_are_whole(name):
    fn, sizes = ROTATED[name]
    found = [(kind, size) for kind, size, *_ in check(fn, W, X) if kind == "orthogonal"]
    exact = [s.size for s in symmetries(fn, W, X) if s.kind == "orthogonal"]
    assert exact == sizes and len(found) <= len(sizes)
