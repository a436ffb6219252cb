"""Training sees what quantisation will do: the same values, with gradients straight through."""

import chex
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax import lax

import jaxcomp as jc
from jaxcomp.formats import INT2, INT4, INT8, UINT4_G32
from jaxcomp.lift import fake_quantize, lift
from tests.weights.training_case import TARGET, X, floats, loss_of, mlp, stats, train

INT4_G16 = INT4._replace(group=16)


def _normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), jnp.float32)


def _model(p, tokens, *, train=False):
    """Looked up and tied, stacked, [out, in], heads, and a convolution."""
    x = p["embedding"][tokens]  # [b, t, 32]
    x, _ = lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["stack"])
    x = jnp.einsum("bthk,hkd->btd", x.reshape(*x.shape[:2], 4, 8), p["heads"])
    x = lax.conv_general_dilated(
        x, p["kernel"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    return (x @ p["torch"].T) @ p["embedding"].T


PARAMS = {
    "embedding": _normal(12, 32),
    "stack": _normal(3, 32, 32) / 4,
    "heads": _normal(4, 8, 16) / 4,
    "kernel": _normal(2, 16, 32) / 4,
    "torch": _normal(32, 32, seed=1) / 4,
}
TOKENS = jnp.arange(12).reshape(3, 4)


@pytest.mark.parametrize("format", [UINT4_G32, INT8._replace(group=None)], ids=str)
def test_rounded_weights_are_those_that_compress_makes(format):
    seen = jc.observe(_model, PARAMS, [TOKENS], statistic=None)
    small = jc.weights.compress(PARAMS, jc.weights.rtn(format), stats=seen)
    assert all(isinstance(leaf, jc.formats.QTensor) for leaf in small.values())
    dense = jax.tree.map(jc.formats.dense, small, is_leaf=jc.tree.is_compressed)
    found = fake_quantize(_model, weights=format)(PARAMS, TOKENS, train=True)
    np.testing.assert_array_equal(found, jax.jit(_model)(dense, TOKENS))
    assert jnp.abs(found - jax.jit(_model)(PARAMS, TOKENS)).max() > 1e-3


def _int8_rows(x):
    scale = np.abs(x).max(-1, keepdims=True) / 127
    return np.round(x / scale) * scale


def test_activations_are_rounded_row_by_row():
    x, w = _normal(5, 16), _normal(16, 8)
    exact = INT8._replace(scale="float32")
    found = fake_quantize(lambda w, x: x @ w, activations=exact)(w, x)
    np.testing.assert_allclose(found, _int8_rows(np.asarray(x)) @ w, rtol=1e-4, atol=1e-5)
    first = fake_quantize(lambda w, x: w.T @ x.T, activations=exact)(w, x)
    np.testing.assert_allclose(first, found.T, rtol=1e-4, atol=1e-5)
    whole = fake_quantize(_model, activations=exact)(PARAMS, TOKENS)
    off = jnp.abs(whole - jax.jit(_model)(PARAMS, TOKENS))
    assert 0 < off.max() < 0.2 * jnp.abs(whole).max()


def test_a_convolution_rounds_its_patches():
    x, w = _normal(2, 6, 16), PARAMS["kernel"]

    def conv(w, x):
        return lax.conv_general_dilated(
            x, w, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
        )

    rows = np.stack([np.asarray(x)[:, i : i + 2].reshape(2, 32) for i in range(5)], 1)
    found = fake_quantize(conv, activations=INT8._replace(scale="float32"))(w, x)
    expected = _int8_rows(rows) @ np.asarray(w).reshape(32, 32)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_gradients_go_straight_through_and_stop_where_values_are_clipped():
    format = INT4_G16._replace(scale="e8m0")  # a power of two: the largest values may be clipped
    w, weight = _normal(32, 8), _normal(32, 8, seed=1)
    found = fake_quantize(lambda w, x: x @ w, weights=format)
    pull = jax.jit(jax.grad(lambda w: (found(w, jnp.eye(32)) * weight).sum()))(w)
    scale = jnp.repeat(jc.formats.quantize(w, format).scales.astype(jnp.float32), 16, 0)
    inside = w / jnp.exp2(scale - 127) <= 7.5
    assert 0 < (~inside).sum() < 64
    np.testing.assert_allclose(pull, jnp.where(inside, weight, 0), rtol=1e-5)
    other = fake_quantize(lambda w, x: x @ w, activations=INT8)
    by_x = jax.jit(jax.grad(lambda x: other(w, x).sum()))
    np.testing.assert_allclose(by_x(_normal(4, 32)), jnp.tile(w.sum(1), (4, 1)), rtol=1e-4)


def test_training_for_two_bits_is_better_than_rounding_to_them():
    params, _ = floats()
    tuned, loss = train(fake_quantize(mlp, weights=INT2), params, 150)
    small = jc.weights.compress(tuned, jc.weights.rtn(INT2), stats=stats())
    assert loss_of(small) == pytest.approx(float(loss), rel=1e-4)
    # Measured: 1.79 rounded to the same grid at once, 0.63 trained for it. A grid that spans its
    # group is a poor one at 2 bits, though: 0.57 with clipping and no training, 0.14 with lsq.
    at_once = jc.weights.compress(params, jc.weights.rtn(INT2), stats=stats())
    assert loss_of(small) < 0.5 * loss_of(at_once)


def test_rules_of_your_own_and_leaves_in_training():
    w, x = _normal(16, 8), _normal(4, 16)
    signs = fake_quantize(lambda w, x: x @ w, weights=jnp.sign)
    np.testing.assert_allclose(signs(w, x), x @ jnp.sign(w), rtol=1e-5)
    latent = jc.weights.compress({"w": w}, jc.weights.lsq(INT4), axes=-2)
    both = fake_quantize(lambda p, x: x @ p["w"], activations=jnp.sign)
    np.testing.assert_allclose(both(latent, x), jnp.sign(x) @ latent["w"].dense(), rtol=1e-5)
    only = fake_quantize(_model, weights=jnp.zeros_like, where=lambda path, leaf: path == "torch")
    assert not only(PARAMS, TOKENS).any()


def test_a_second_call_traces_nothing():
    traced = chex.assert_max_traces(mlp, n=2)  # what is multiplied, then the function
    chex.clear_trace_counter()
    apply = fake_quantize(traced, weights=INT4, activations=INT8)
    params, _ = floats()
    a, b = apply(params, X), apply(params, 2 * X)
    assert a.shape == b.shape == TARGET.shape and not lift(mlp).report(params, X).rows


def test_nothing_to_round_is_refused(monkeypatch):
    with pytest.raises(jc.UnsupportedInput, match="got neither"):
        fake_quantize(mlp)
    with pytest.raises(jc.UnsupportedInput, match="got none"):
        fake_quantize(mlp, weights=INT4, where=lambda path, leaf: False)(floats()[0], X)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    for wrong in ({"weights": "int4"}, {"activations": 8}):
        with pytest.raises(jc.UnsupportedInput, match="expected a jc.formats.Format, or a rule"):
            fake_quantize(mlp, **wrong)
