"""Scales: found through what keeps them, and nowhere where anything else sees a channel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.lift.symmetry import symmetries
from tests.lift.symmetry_cases import check, weights

W = weights(a=(4, 4), b=(4, 4), c=(4, 4), g=(4,), t=(3, 4))
X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)


def test_a_convolutional_network():
    params = weights(
        first=(3, 3, 3, 4),
        gain=(4,),
        bias=(4,),
        depth=(3, 3, 1, 8),
        second=(1, 1, 8, 5),
        head=(5, 2),
    )

    def conv(x, w, groups=1):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    def network(p, x):
        x = jax.nn.relu(conv(x, p["first"]) * p["gain"] + p["bias"])
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        x = jnp.abs(conv(x, p["depth"], 4))
        return jax.nn.leaky_relu(conv(x, p["second"])).mean((1, 2)) @ p["head"]

    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 6, 3)), jnp.float32)
    found = check(network, params, x)
    assert found == {("scale", 8, "depth", "second"), ("scale", 5, "second", "head")}


def test_of_two_factors_the_later_one_is_free():
    """Both could be scaled; what is nearest to the reader is, and a gate of a ReLU is not."""

    def network(p, x):
        return (jax.nn.relu(x @ p["a"]) * (x @ p["b"])) @ p["c"]

    assert check(network, W, X) == {("scale", 4, "b", "c")}


def test_zeros_and_infinities_take_every_scale():
    def network(p, x):
        h = jnp.where(jnp.arange(3)[:, None] < 2, x @ p["a"], -jnp.inf).max(0)
        h = jnp.pad(jnp.maximum(h, 0.0), (0, 2))
        return h[:4] @ p["b"]

    assert check(network, W, X) == {("scale", 4, "a", "b")}


def test_unknown_places_along_tokens_are_followed():
    def network(p, x, i):
        h = x @ p["a"]
        return h[i] @ p["b"] + jax.lax.dynamic_slice(h, (i[0], 0), (2, 4))[0] @ p["b"]

    found = check(network, W, X, jnp.asarray([2, 0]))
    assert ("scale", 4, "a", "b") in found


DEAD = {
    "an output": lambda p, x: ((h := jax.nn.relu(x @ p["a"])) @ p["b"], h[0]),
    "a nonlinearity": lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"],
    "a residual": lambda p, x: (x + x @ p["a"]) @ p["b"],
    "a softmax": lambda p, x: jax.nn.softmax(x @ p["a"]) @ p["b"],
    "a sum over channels": lambda p, x: (h := x @ p["a"]) @ p["b"] * jnp.tanh(h.sum(-1)[:, None]),
    "a square": lambda p, x: jax.nn.relu(x @ p["a"]) ** 2 @ p["b"],
    "a divisor": lambda p, x: (1 / (x @ p["a"])) @ p["b"],
    "a while loop": lambda p, x: (
        jax.lax.while_loop(lambda h: h.sum() < 0, lambda h: h + 1, x @ p["a"]) @ p["b"]
    ),
    "another layout of a weight": lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"] + x @ p["b"].T,
    "arithmetic on a weight": lambda p, x: jax.nn.relu(x @ p["a"]) @ (p["b"] + 1),
    "part of a weight elsewhere": lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"] + p["b"][0],
    "weights that are joined": lambda p, x: (
        jax.nn.relu(x @ p["a"]) @ jnp.concatenate([p["b"], p["b"]], 1)
    ),
    "a weight that is returned": lambda p, x: (jax.nn.relu(x @ p["a"]) @ p["b"], p["b"]),
    "a threshold": lambda p, x: jnp.where((h := x @ p["a"]) > 0.1, h, 0) @ p["b"],
    "rounding": lambda p, x: jnp.round(jnp.maximum(x @ p["a"], 0)) @ p["b"],
}


@pytest.mark.parametrize("name", DEAD)
def test_channels_that_something_else_sees_are_not_found(name):
    assert symmetries(DEAD[name], W, X) == []
