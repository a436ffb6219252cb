"""A product of one's own meets the weights of a function in every layout."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.lift.replace import Plain, around_weights, replace_products
from tests.lift.test_fake_quantize import PARAMS, TOKENS, _model

SEEN = []


def _counted(x, w):
    SEEN.append((x.shape, w.shape))
    return x @ w


def test_every_product_is_replaced_and_comes_back_where_it_was():
    found = replace_products(_model, _counted)(PARAMS, TOKENS)
    np.testing.assert_allclose(found, jax.jit(_model)(PARAMS, TOKENS), rtol=1e-4, atol=1e-4)
    # [rows, in] and [in, out] of stack, heads, convolution, [out, in], and tied embedding.
    sizes = [(32, 32), (32, 16), (32, 32), (32, 32), (32, 12)]
    assert SEEN == [((12, a), (a, b)) for a, b in sizes]
    doubled = replace_products(_model, lambda x, w: 2 * x @ w, where=lambda p, _: p == "torch")
    np.testing.assert_allclose(doubled(PARAMS, TOKENS), 2 * found, rtol=1e-4, atol=1e-4)


def test_batches_of_matrices_meet_it_one_by_one():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 5, 3, 8)), rng.normal(size=(3, 8, 4))
    x, w = jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32)
    batched = replace_products(lambda w, x: jnp.einsum("btei,eio->bteo", x, w), _counted)
    np.testing.assert_allclose(
        batched(w, x), jnp.einsum("btei,eio->bteo", x, w), rtol=1e-4, atol=1e-5
    )
    assert SEEN[-1] == ((10, 8), (8, 4))


def test_a_handler_that_changes_nothing_changes_nothing_and_traces_once():
    traced = chex.assert_max_traces(lambda p, x: x @ p["w"], n=2)  # what it meets, then itself
    chex.clear_trace_counter()
    apply = around_weights(traced, Plain)
    w = jnp.ones((4, 3))
    small = {"w": jc.formats.quantize(w, jc.formats.INT8)}
    np.testing.assert_array_equal(apply({"w": w}, jnp.ones((3, 4))), apply({"w": w}, 0 * w.T) + 4)
    leaf = around_weights(lambda p, x: x @ p["w"], Plain)
    np.testing.assert_allclose(leaf(small, jnp.ones((2, 4))), 4 * jnp.ones((2, 3)), rtol=1e-2)


def test_no_weight_at_all_is_refused():
    with pytest.raises(jc.UnsupportedInput, match="got none of none"):
        around_weights(lambda p, x: x, Plain)({"w": jnp.ones((4, 3))}, jnp.ones(4))
