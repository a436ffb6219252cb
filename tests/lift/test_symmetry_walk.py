"""Weights keep their labels through views, loops and branches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.lift.symmetry import symmetries
from tests.lift.symmetry_cases import check, weights

W = weights(a=(4, 4), b=(4, 4), s=(2, 4, 4), t=(2, 4, 4), f=(4, 3, 4))
X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)


def _loop(p, x):
    def turn(i, x):
        return x + jax.nn.relu(x @ p["s"][i]) @ p["t"][i]

    return jax.lax.fori_loop(0, 2, turn, x)


def _scan(p, x):
    def turn(x, w):
        y = jax.nn.relu(x @ w["s"])
        return x + y @ w["t"], x

    x, ys = jax.lax.scan(turn, x, {"s": p["s"], "t": p["t"]}, reverse=True)
    return x + ys.sum(0)


def _branches(p, x):
    h = jax.lax.cond(x.sum() > 0, jax.nn.relu, lambda h: -h, x @ p["a"])
    return h @ p["b"]


def _wrapped(p, x):
    inner = jax.custom_vjp(lambda h: jax.nn.relu(h))
    inner.defvjp(lambda h: (h, None), lambda _, g: (g,))
    return jax.jit(jax.checkpoint(lambda h: inner(h) @ p["b"].astype(jnp.float32)))(x @ p["a"])


def _slices(p, x):
    q, k, v = (p["f"][:, i] for i in range(3))
    scores = jax.nn.softmax((x @ q) @ (x @ k).T)
    return scores @ (x @ v) @ p["b"]


STACKED = {("scale", 8, "s", "t")}
FOUND = {
    "a loop by index": (_loop, STACKED),
    "a scan from behind": (_scan, STACKED),
    "branches": (_branches, {("scale", 4, "a", "b")}),
    "functions of every kind": (_wrapped, {("scale", 4, "a", "b")}),
    "slices of one weight": (_slices, {("scale", 4, "f", "b"), ("orthogonal", 4, "f", "b")}),
    "a factor of a weight": (
        lambda p, x: jax.nn.relu(x @ (p["a"] / 2)) @ (2.0 * p["b"]),
        {("scale", 4, "a", "b")},
    ),
    "a layer used twice": (
        lambda p, x: (f := lambda x: x + jax.nn.relu(x @ p["a"]) @ p["b"])(f(x)),
        {("scale", 4, "a", "b")},
    ),
    "its own reader": (lambda p, x: jnp.abs(jnp.abs(x @ p["a"]) @ p["b"]) @ p["b"] @ p["b"], set()),
}


@pytest.mark.parametrize("name", FOUND)
def test_found_in(name):
    fn, expected = FOUND[name]
    assert check(fn, W, X) == expected


def test_longer_loops_are_not_unrolled():
    def fn(p, x):
        return jax.lax.scan(lambda h, _: (jnp.tanh(h), None), x @ p["a"], length=600)[0] @ p["b"]

    assert symmetries(fn, W, X) == []
