"""Rounding, soft rounding, bounds and expected gradients against tensorflow-compression's.

Values within 2e-6; slopes within 2e-5 plus 1e-4 of them: ours are float32, and the inputs too,
so where a function is steep its value moves by the slope times half a unit in the last place.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import entropy
from tests.oracle.reference import load

OPERATORS = load("operators")
X = jnp.asarray(OPERATORS[""]["x"], jnp.float32)


def f32(values):
    return jnp.asarray(values, jnp.float32)


def slope(function):
    return np.asarray(jax.grad(lambda x: function(x).sum())(X))


@pytest.mark.parametrize("alpha", ["0.0001", "0.5", "4", "12"])
@pytest.mark.parametrize(
    "name", ["soft_round", "soft_round_inverse", "soft_round_conditional_mean"]
)
def test_soft_rounding_and_its_slope(name, alpha):
    def function(x):
        return getattr(entropy, name)(x, float(alpha))

    ours, theirs = slope(function), OPERATORS[f"{name}_gradient"][alpha]
    error = np.abs(np.asarray(function(X), np.float64) - OPERATORS[name][alpha])
    assert (error < 2e-6 + 2.4e-7 * np.abs(theirs)).all()
    # They clip the inverse, so its slope at the very integers is lost; ours is the limit.
    clipped = (theirs == 0) & ("soft_round_" in name)
    np.testing.assert_allclose(ours[~clipped], theirs[~clipped], atol=2e-5, rtol=1e-4)
    assert clipped.sum() <= 4 and (ours[clipped] > 1).all()


def test_straight_through_rounding():
    case = OPERATORS["round_st"]
    np.testing.assert_array_equal(entropy.straight_through_round(X), case["value"])
    np.testing.assert_array_equal(slope(entropy.straight_through_round), case["gradient"])
    offset = f32(case["offset"])
    moved = entropy.straight_through_round(X, offset)
    np.testing.assert_allclose(moved, case["offset_value"], atol=1e-6)
    by_x = slope(lambda x: entropy.straight_through_round(x, offset))
    np.testing.assert_array_equal(by_x, case["offset_gradient"])


@pytest.mark.parametrize("rule", ["identity_if_towards", "identity", "disconnected"])
@pytest.mark.parametrize("name", ["lower_bound", "upper_bound"])
def test_bounds_and_their_gradient_rules(name, rule):
    bound, cotangent = OPERATORS["bound"]["at"], f32(OPERATORS["bound"]["cotangent"])
    value, back = jax.vjp(lambda x: getattr(entropy, name)(x, f32(bound), rule), X)
    np.testing.assert_allclose(value, OPERATORS[name]["value"], atol=1e-6)
    np.testing.assert_array_equal(back(cotangent)[0], f32(OPERATORS[name][rule]))


@pytest.mark.parametrize("kind", ["expected", "plain"])
def test_perturb_and_apply_has_the_expected_slope(kind):
    case = OPERATORS["perturb_and_apply"]
    noise, scale = f32(case["noise"]), f32(case["slope"])

    def total(x, scale):
        value, noisy = entropy.perturb_and_apply(
            lambda v, s: jnp.sin(s * v), x, noise, scale, expected_gradients=kind == "expected"
        )
        return value.sum(), (value, noisy)

    by, (value, noisy) = jax.grad(total, argnums=(0, 1), has_aux=True)(X, scale)
    np.testing.assert_allclose(value, case[kind], atol=2e-6)
    np.testing.assert_allclose(noisy, X + noise, atol=1e-6)
    for ours, what in zip(by, ("x", "slope"), strict=True):
        np.testing.assert_allclose(ours, case[f"{kind}_{what}"], atol=1e-5)
    assert np.abs(case["expected_x"] - case["plain_x"]).max() > 0.1


def test_rounding_noisy_values_is_stochastic_rounding():
    """Their stochastic_round has no reference numbers but its law: to a neighbour, unbiased."""
    x = jnp.full(40_000, 2.3)
    rounded = np.asarray(entropy.quantise(entropy.add_uniform_noise(jax.random.key(0), x)))
    assert set(rounded.tolist()) == {2, 3}
    assert abs(rounded.mean() - 2.3) < 4 * np.sqrt(0.3 * 0.7 / x.size)
