"""EF21 with momentum: gradients of small batches, which plain EF21 does not see through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import UnsupportedInput, optim
from tests.optim.inputs import descend

RANDOM = np.random.default_rng(2)
CURVES = jnp.asarray(RANDOM.uniform(0.5, 2, (4, 16)), jnp.float32)
CENTRES = jnp.asarray(RANDOM.normal(size=(4, 16)), jnp.float32)
BEST = (CURVES * CENTRES).sum(0) / CURVES.sum(0)
TOP_1 = optim.top_k(1 / 16)


def path(transform, step, noise):
    """Of unlike quadratics, near the minimum: the later half."""

    def gradients(x):
        return CURVES * (x - CENTRES)

    return descend(transform, gradients, BEST, step=step, steps=3000, noise=noise)[1500:]


def test_noise_that_keeps_ef21_away_at_any_step_is_averaged_out():
    whole = path(optim.compressed(optim.identity()), 0.01, 1.0)

    def off(transform, step):  # from what the same noise does to all methods
        each = path(transform, step, 1.0) - whole
        return np.linalg.norm(each, axis=1).mean(), np.linalg.norm(each.mean(0))

    far, aside = off(optim.ef21(TOP_1), 0.01)
    _, slow_aside = off(optim.ef21(TOP_1), 0.003)
    near, middle = off(optim.ef21_momentum(TOP_1, 0.01), 0.01)
    # ef21 does not only wander, it is off to one side: smaller steps are of no use.
    assert slow_aside > 0.7 * aside
    assert near < far / 3 and middle < aside / 3


def test_without_noise_it_comes_to_the_minimum_of_unlike_senders():
    found = path(optim.ef21_momentum(TOP_1, 0.1), 0.03, 0.0)
    assert np.linalg.norm(found[-1] - BEST) < 1e-5


def test_eta_1_is_ef21_and_the_identity_is_momentum():
    gradients = RANDOM.normal(size=(4, 16)).astype(np.float32)

    def outs(transform):
        def step(state, g):
            return tuple(reversed(transform.update(g, state)))

        return jax.lax.scan(step, transform.init(gradients[0]), gradients)[1]

    same, ef21, mean = jax.jit(
        lambda: [
            outs(each)
            for each in (
                optim.ef21_momentum(TOP_1, 1.0),
                optim.ef21(TOP_1),
                optim.ef21_momentum(optim.identity(), 0.3),
            )
        ]
    )()
    np.testing.assert_array_equal(same, ef21)
    expected = np.zeros(16)
    for g, found in zip(gradients, mean, strict=True):
        expected = 0.7 * expected + 0.3 * g
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_eta_is_a_share():
    with pytest.raises(UnsupportedInput, match="above 0 and at most 1, got 0"):
        optim.ef21_momentum(TOP_1, 0.0)
