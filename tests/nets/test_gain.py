"""Gain units: every rate in one model, and the same integers at both ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.base import JaxcompError
from jaxcomp.nets.fixed_point import FixedPoint, dequantise, fake_quantise, quantise
from jaxcomp.nets.gain import Gain, interpolate, multiply, tables
from tests.checks import float_primitives
from tests.nets.cases import check_one_trace

LATENTS, GRID = FixedPoint(16, 0), FixedPoint(16, 6)


def _variables(tied=False, seed=0):
    log_gain = np.random.default_rng(seed).normal(0, 1, (4, 6)).astype(np.float32)
    params = {"log_gain": jnp.asarray(log_gain)}
    if not tied:
        params["log_inverse"] = 0.7 - params["log_gain"]
    return {"params": params}


@pytest.mark.parametrize("tied, product", [(True, 1.0), (False, np.exp(0.7))])
def test_what_holds_at_the_levels_holds_between_them(tied, product):
    """Equation 5 of Cui et al.: g g' is one constant, so every rate reconstructs as truly."""
    gain = Gain(6, tied=tied)
    levels = np.linspace(0, 3, 31).astype(np.float32)
    forward, inverse = gain.apply(_variables(tied), levels)
    assert forward.shape == (31, 6)
    np.testing.assert_allclose(forward * inverse, product, rtol=1e-5)
    table = np.exp(np.asarray(_variables(tied)["params"]["log_gain"]))
    np.testing.assert_allclose(forward[::10], table, rtol=1e-5)
    np.testing.assert_allclose(forward[5], np.sqrt(table[0] * table[1]), rtol=1e-5)
    linear = (table[0] + table[1]) / 2  # interpolating gains themselves would break the product
    assert np.abs(linear * (1 / table[0] + 1 / table[1]) / 2 - 1).max() > 0.1


def test_a_larger_gain_is_a_finer_step():
    y = np.random.default_rng(0).normal(0, 3, (4000, 6)).astype(np.float32)
    gain = Gain(6)
    variables = gain.init(jax.random.key(0), 0.0)
    errors, spreads = [], []
    for level in np.linspace(0, 3, 7):
        forward, inverse = gain.apply(variables, level)
        q = np.round(y * forward)
        errors.append(np.mean((q * inverse - y) ** 2))
        spreads.append(len(np.unique(q)))
    assert errors == sorted(errors, reverse=True) and spreads == sorted(spreads)
    assert errors[0] > 50 * errors[-1]
    assert gain.apply(variables, -1.0)[0][0] == gain.apply(variables, 0.0)[0][0]


def test_identity_limit():
    gain = Gain(3, start=(1.0, 1.0))
    forward, inverse = gain.apply(gain.init(jax.random.key(0), 0.0), 1.3)
    np.testing.assert_array_equal(forward, np.ones(3))
    np.testing.assert_array_equal(inverse, np.ones(3))
    np.testing.assert_array_equal(interpolate(jnp.ones((2, 3)), jnp.float32(0.4)), np.ones(3))


def test_integers_multiply_like_floats_on_the_grid():
    _, rows = tables(Gain(6), _variables(), 16)
    assert rows.dtype == np.int32 and rows.shape == (16, 6)
    y = np.random.default_rng(0).integers(-3000, 3000, (50, 6)).astype(np.int16)
    y[0], y[1] = LATENTS.low, LATENTS.high

    def decode(y, row):
        return multiply(y, row, source=LATENTS, target=GRID)

    out = jax.jit(decode)(y, rows[5])
    exact = np.floor(y.astype(np.float64) * np.asarray(rows[5]) / 16 + 0.5)
    np.testing.assert_array_equal(out, np.clip(exact, GRID.low, GRID.high))
    assert not float_primitives(decode, y, rows[5])
    floats = decode(dequantise(y, LATENTS), rows[5])
    np.testing.assert_array_equal(floats, dequantise(out, GRID))
    np.testing.assert_array_equal(quantise(floats, GRID), out)
    slope = jax.grad(lambda y: decode(y, rows[5]).sum())(jnp.full((1, 6), 2.0))
    np.testing.assert_allclose(slope[0], rows[5] / 1024)
    assert np.abs(fake_quantise(floats, LATENTS) - floats).max() > 0.1


def test_one_trace_for_every_level():
    check_one_trace(Gain(6), np.float32(0.5))


def test_refusals():
    with pytest.raises(JaxcompError, match="another fraction"):
        tables(Gain(6), _variables(), 4, fraction=20)
    with pytest.raises(JaxcompError, match="positive gains"):
        Gain(6, levels=1).init(jax.random.key(0), 0.0)
    with pytest.raises(JaxcompError, match="more fraction"):
        row = jnp.ones(3, jnp.int32)
        multiply(np.zeros(3, np.int16), row, source=LATENTS, target=FixedPoint(16, 11))
