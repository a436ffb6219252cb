"""Bounds: the values of max and min, and which gradients come through beyond them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.entropy import lower_bound, upper_bound

X = jnp.array([-2.0, 0.5, 1.0, 3.0])


@pytest.mark.parametrize("bound, limit", [(lower_bound, jnp.maximum), (upper_bound, jnp.minimum)])
def test_values_are_those_of_the_plain_bound(bound, limit):
    np.testing.assert_array_equal(bound(X, 0.5), limit(X, 0.5))
    np.testing.assert_array_equal(jax.jit(bound)(X, X[::-1]), limit(X, X[::-1]))


@pytest.mark.parametrize(
    "rule, up, down",
    [
        # Descent adds -1 times the gradient: a negative one moves x up, towards a lower bound.
        ("identity_if_towards", [0, 1, 1, 1], [-1, -1, -1, -1]),
        ("identity", [1, 1, 1, 1], [-1, -1, -1, -1]),
        ("disconnected", [0, 1, 1, 1], [0, -1, -1, -1]),
    ],
)
def test_gradients_below_a_lower_bound(rule, up, down):
    slope = jax.grad(lambda x, sign: (sign * lower_bound(x, 0.5, rule)).sum())
    np.testing.assert_array_equal(slope(X, 1.0), up)
    np.testing.assert_array_equal(slope(X, -1.0), down)
    # The mirror image is an upper bound.
    slope = jax.grad(lambda x, sign: (sign * upper_bound(x, -0.5, rule)).sum())
    np.testing.assert_array_equal(slope(-X, -1.0), -np.array(up))
    np.testing.assert_array_equal(slope(-X, 1.0), -np.array(down))


def test_descent_comes_back_from_beyond_the_bound():
    def fall(bound):
        x = jnp.float32(-1.0)
        for _ in range(100):
            x -= 0.1 * jax.grad(lambda x: (bound(x, 0.5) - 2.0) ** 2)(x)
        return x

    assert abs(fall(lower_bound) - 2.0) < 0.01
    assert fall(jnp.maximum) == -1.0


def test_another_rule_is_refused():
    with pytest.raises(jc.JaxcompError, match="identity_if_towards"):
        lower_bound(X, 0.0, "through")
