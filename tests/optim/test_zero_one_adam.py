"""0/1 Adam: Adam as its limit, refreshes and means as far apart as asked, steps in between."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcomp import UnsupportedInput, optim
from tests.optim.meeting_cases import SENDERS, STEPS, WIDTH, distance, lanes, regression
from tests.optim.test_one_bit_adam import GRADIENTS, frozen_adam, given


def test_the_identity_that_meets_at_every_step_is_adam_whose_second_moment_stays():
    method = optim.zero_one_adam(0.1, optim.dense_mean("data"), freeze=5, local=1)
    path, state = lanes(method, given, jnp.zeros(10), 12, local=True)
    np.testing.assert_allclose(path, frozen_adam(GRADIENTS, 5), rtol=1e-4, atol=1e-5)
    assert state.refreshed == 5


def test_local_steps_come_to_the_mean_of_where_they_lead():
    options = dict(freeze=1, local=4, local_doubling=3)
    method = optim.zero_one_adam(lambda t: 0.1 / (1 + t), optim.dense_mean("data"), **options)
    path, state = lanes(method, given, jnp.zeros(10), 12, local=True)
    # One of Adam; 3 steps of 1; then 2, as 4 comes in after three more, when one was made: 4, ...
    met = [0, 1, 2, 3, 5, 9]
    assert [0, *(1 + np.flatnonzero(np.diff(path, axis=0).any(1)))] == met
    g, v = GRADIENTS.astype(np.float64), GRADIENTS[0].astype(np.float64).mean(0) ** 2
    x = m = np.zeros((SENDERS, 10))
    gone = rates = 0
    for t in range(12):
        m = 0.9 * m + 0.1 * (g[t].mean(0) if t == 0 else g[t])
        step = 0.1 / (1 + t) * m / (1 - 0.9 ** (t + 1))
        x = x - step / (np.sqrt(v) + 1e-8)
        gone, rates = gone + step, rates + 0.1 / (1 + t) / (1 - 0.9 ** (t + 1))
        if t in met:
            x = np.broadcast_to(x.mean(0), x.shape)
            m = np.broadcast_to((gone / rates).mean(0), x.shape)
            gone = rates = 0
            np.testing.assert_allclose(path[t], x[0], rtol=1e-4, atol=1e-5)
    assert optim.report(state).steps == 12


def test_refreshes_move_apart_and_all_bytes_are_counted():
    signs = optim.compressed_mean(optim.sign(block=8), "data")
    method = optim.zero_one_adam(0.01, signs, freeze=12, refreshes=2)
    _, state = lanes(method, given, jnp.zeros(10), 14, local=True)
    assert state.refreshed == 6  # at 0, 1; 2, 4; 6, 10; not at 14
    shard = 3
    whole, one = (2 * (SENDERS - 1) * n for n in (4 * shard, 1 + 4))
    # Two means of steps; each mean has beside it what was not finite: 2 (N - 1) / N of an i32.
    assert optim.report(state).sent_nbytes == 6 * whole + 8 * one + 14 * 6


def test_impossible_options_are_named():
    with pytest.raises(UnsupportedInput, match="refreshes of at least 1"):
        optim.zero_one_adam(0.1, optim.dense_mean("data"), freeze=5, refreshes=0)
    with pytest.raises(UnsupportedInput, match="eps of at least 0"):
        optim.zero_one_adam(0.1, optim.dense_mean("data"), freeze=5, eps=-1.0)


def test_means_of_local_steps_come_as_near_as_those_of_every_step_in_fewer_bytes():
    rate = optax.cosine_decay_schedule(0.3, STEPS)
    signs = optim.compressed_mean(optim.sign(block=16), "data")

    def run(**options):
        method = optim.zero_one_adam(rate, signs, freeze=80, refreshes=8, **options)
        path, state = lanes(method, regression, jnp.zeros(WIDTH), STEPS, local=True)
        return distance(path), optim.report(state).ratio

    (near, ratio), (nearer, more) = run(local=1), run(local=16, local_doubling=30)
    assert nearer < 1.1 * near < 0.2 and more > 1.3 * ratio
