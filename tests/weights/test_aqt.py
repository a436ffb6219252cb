"""int8 products forward and backward: integers in the program, training as good as in floats."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.weights.aqt import aqt, int8_product
from tests.weights.training_case import TARGET, X, floats, loss_of, mlp, train

pytestmark = pytest.mark.usefixtures("quick_file")

RNG = np.random.default_rng(0)
A = jnp.asarray(RNG.normal(size=(24, 32)), jnp.float32)
W = jnp.asarray(RNG.normal(size=(32, 16)), jnp.float32)
G = jnp.asarray(RNG.normal(size=(24, 16)), jnp.float32)


def _codes(x, axis):
    scale = np.abs(x).max(axis, keepdims=True) / np.float32(127)
    return np.round(x / scale), scale


def _product(a, b):
    """numpy: rows of a, columns of b, each with a scale."""
    (a, a_scale), (b, b_scale) = _codes(np.asarray(a), 1), _codes(np.asarray(b), 0)
    return (a @ b) * a_scale * b_scale


def test_products_and_gradients_are_those_of_rounded_operands():
    y, pull = jax.vjp(jax.jit(lambda x, w: int8_product(x, w, stochastic=False)), A, W)
    dx, dw = pull(G)
    np.testing.assert_allclose(y, _product(A, W), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx, _product(G, W.T), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dw, _product(A.T, G), rtol=1e-5, atol=1e-5)
    exact = A @ W
    assert 0 < jnp.linalg.norm(y - exact) < 0.02 * jnp.linalg.norm(exact)


def _dots(fn, *arguments):
    """(int8 products, others) of a program."""
    text = jax.jit(fn).lower(*arguments).as_text()
    dots = re.findall(r"dot_general.*?: \(tensor<[^>]*x(\w+)>, tensor<[^>]*x(\w+)>\)", text)
    whole = [pair for pair in dots if pair == ("i8", "i8")]
    return len(whole), len(dots) - len(whole)


def test_every_product_of_a_step_is_in_int8():
    apply = aqt(mlp)
    params, _ = floats()
    assert _dots(apply, params, X) == (3, 0)  # one of them in a loop

    def loss(p, x):
        return jnp.mean((apply(p, x) - TARGET) ** 2)

    forward, backward = _dots(loss, params, X)[0], _dots(jax.grad(loss, argnums=(0, 1)), params, X)
    assert backward == (3 * forward, 0)


def test_stochastic_gradients_are_right_on_average_and_nearest_ones_are_not():
    # Beside one large gradient, 0.3 of a step is nothing to the nearest level.
    g = jnp.full((1, 16), 0.3 / 127).at[0, 0].set(1.0)
    w = jnp.zeros((32, 16)).at[:, 1:].set(1.0)

    def mean(stochastic):
        def one(jitter):
            product = lambda x: int8_product(x, w, stochastic=stochastic)  # noqa: E731
            return jax.vjp(product, A[:1])[1](g + jitter)[0]

        return jax.jit(lambda j: jax.vmap(one)(j).mean())(jnp.arange(512) * 1e-7)

    exact = 15 * (0.3 / 127 + 1e-7 * 255.5)
    assert mean(False) == 0
    assert mean(True) == pytest.approx(exact, rel=0.1)


def test_training_in_int8_is_as_good_as_in_floats():
    params, _ = floats()
    start = jax.tree.map(lambda w: w + 0.1 * jnp.cos(jnp.arange(w.size)).reshape(w.shape), params)
    traced = chex.assert_max_traces(mlp, n=8)
    chex.clear_trace_counter()
    tuned, in_int8 = train(aqt(traced), start, 150)
    _, in_floats = train(mlp, start, 150)
    # Measured in four runs of other starts and lengths: 1 to 8 % above the loss of floats.
    assert in_int8 < 1.1 * in_floats < 0.2 * loss_of(start)
    assert loss_of(tuned) < 1.1 * in_floats


def test_some_weights_may_stay_in_floats():
    params, _ = floats()
    some = aqt(mlp, where=lambda path, leaf: path != "last")
    assert _dots(some, params, X) == (2, 1)
    assert jc.weights.aqt is aqt
