"""EF21: the exact minimum at a constant step, where top-k alone runs away or stalls."""

import jax.numpy as jnp
import numpy as np

from jaxcomp import optim
from tests.optim.inputs import descend

# Beznosikov et al., On Biased Compression for Distributed Learning, 2020, example 1: top-1 of each
# sender points uphill, and their mean runs away from every (t, t, t).
SLOPES = jnp.array([[-3.0, 2, 2], [2, -3, 2], [2, 2, -3]])


def example(x):
    """Of <a, x>^2 + |x|^2 / 4 for each sender's a; the minimum is 0."""
    return 2 * (SLOPES @ x)[:, None] * SLOPES + x / 2


def test_top_1_alone_runs_away_and_ef21_reaches_the_minimum():
    start = jnp.ones(3)
    alone = descend(optim.compressed(optim.top_k(1 / 3)), example, start, step=0.01, steps=1000)
    assert np.linalg.norm(alone[-1]) > 1e4
    path = descend(optim.ef21(optim.top_k(1 / 3)), example, start, step=0.01, steps=3000)
    assert np.linalg.norm(path[-1]) < 1e-5


def test_unlike_quadratics_are_solved_exactly_where_error_feedback_stays_near():
    random = np.random.default_rng(2)
    curves = jnp.asarray(random.uniform(0.5, 2, (4, 16)), jnp.float32)
    centres = jnp.asarray(random.normal(size=(4, 16)), jnp.float32)
    best = (curves * centres).sum(0) / curves.sum(0)

    def gradients(x):
        return curves * (x - centres)

    def off(method):
        path = descend(method(optim.top_k(1 / 16)), gradients, best + 1, step=0.05, steps=2000)
        return np.linalg.norm(path[-100:] - best, axis=1).max()

    assert off(optim.ef21) < 1e-5
    assert off(optim.error_feedback) > 1e-2
