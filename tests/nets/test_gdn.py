"""GDN: what it is for, its inverse, and a plain loop as the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.nets.gdn import BETA_MIN, GDN, IGDN, OFFSET, activity, lower_bound
from tests.nets.cases import check_one_trace


def _params(beta, gamma):
    root = {"beta": beta, "gamma": gamma}
    return {"params": jax.tree.map(lambda v: jnp.sqrt(jnp.asarray(v) + OFFSET**2), root)}


def _random(channels=5, size=40):
    generator = np.random.default_rng(0)
    x = generator.normal(0, 2, (size, channels)).astype(np.float32)
    beta = generator.uniform(0.5, 2, channels).astype(np.float32)
    return x, beta, generator.uniform(0, 0.3, (channels, channels)).astype(np.float32)


@pytest.mark.parametrize("simplified, alpha, epsilon", [(False, 2, 0.5), (True, 1, 1)])
def test_the_formula(simplified, alpha, epsilon):
    x, beta, gamma = _random()
    norm = np.array(
        [
            [(b + sum(g * abs(v) ** alpha for g, v in zip(row, pixel, strict=True))) ** epsilon
             for b, row in zip(beta, gamma, strict=True)]
            for pixel in x
        ]
    )  # fmt: skip
    variables = _params(beta, gamma)
    y = GDN(simplified=simplified).apply(variables, x)
    np.testing.assert_allclose(y, x / norm, rtol=2e-5)
    inverse = GDN(inverse=True, simplified=simplified).apply(variables, x)
    np.testing.assert_allclose(inverse, x * norm, rtol=2e-5)


def test_it_makes_a_scale_mixture_gaussian():
    """What Balle et al. found of image responses: a shared scale leaves, kurtosis and all."""
    key = jax.random.split(jax.random.key(0), 2)
    scale = jnp.exp(0.8 * jax.random.normal(key[0], (40_000, 1)))
    x = scale * jax.random.normal(key[1], (40_000, 32))
    gdn = _params(jnp.full(32, 0.01), jnp.full((32, 32), 1 / 32))
    before, after = _dependence(x), _dependence(GDN().apply(gdn, x))
    assert before[0] > 20 and before[1] > 0.3
    assert abs(after[0] - 3) < 0.25 and after[1] < 0.03


def _dependence(x):
    x = np.asarray(x, np.float64)
    kurtosis = (x**4).mean() / (x**2).mean() ** 2
    return kurtosis, np.corrcoef(np.abs(x[:, 0]), np.abs(x[:, 1]))[0, 1]


@pytest.mark.parametrize("simplified", [False, True])
def test_the_inverse_is_exact_without_coupling_and_near_with_little(simplified):
    x, beta, gamma = _random()
    errors = []
    for strength in (0, 1e-4, 1e-2):
        variables = _params(beta, strength * gamma)
        y = GDN(simplified=simplified).apply(variables, x)
        back = IGDN(simplified).apply({"params": {"gdn": variables["params"]}}, y)
        errors.append(np.abs(back - x).max())
    assert errors[0] < 1e-5 and errors[1] < 1e-2 < errors[2]


def test_identity_limit_and_start():
    x, *_ = _random()
    variables = _params(np.ones(5, np.float32), np.zeros((5, 5), np.float32))
    np.testing.assert_allclose(GDN().apply(variables, x), x, rtol=1e-6)
    start = GDN().init(jax.random.key(0), x)
    np.testing.assert_allclose(GDN().apply(start, x), x / np.sqrt(1 + 0.1 * x**2), rtol=1e-5)
    assert activity(x, jnp.ones(5), jnp.zeros((5, 5)), simplified=True).shape == x.shape


def test_parameters_stay_positive_and_can_come_back():
    x, beta, gamma = _random()
    variables = {"params": {"beta": jnp.full(5, -1.0), "gamma": jnp.full((5, 5), -1.0)}}
    y = GDN().apply(variables, x)
    np.testing.assert_allclose(y, x / BETA_MIN**0.5, rtol=1e-3)

    def norm(variables):  # falls when beta and gamma rise
        return jnp.square(GDN().apply(variables, x)).sum()

    gradient = jax.grad(norm)(variables)["params"]
    assert (gradient["beta"] < 0).all() and (gradient["gamma"] < 0).all()
    gradient = jax.grad(lambda v: -norm(v))(variables)["params"]
    assert not gradient["beta"].any() and not gradient["gamma"].any()
    assert jax.grad(lower_bound)(jnp.float32(2.0), 1.0) == 1


def test_one_trace():
    check_one_trace(GDN(), _random()[0])
