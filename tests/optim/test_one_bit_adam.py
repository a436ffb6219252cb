"""1-bit Adam: optax.adam while it warms up, Adam with a fixed second moment as its limit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcomp import UnsupportedInput, optim
from tests.optim.meeting_cases import SENDERS, STEPS, WIDTH, distance, lanes, regression

GRADIENTS = np.random.default_rng(0).normal(size=(12, SENDERS, 10)).astype(np.float32)
DEAD = np.arange(10) % 4 == 0


def given(x, t, i):
    return jnp.asarray(GRADIENTS)[t, i]


def frozen_adam(gradients, warm_up):
    """x after each step at a rate of 0.1, in float64."""
    x = m = v = np.zeros(10)
    path = []
    for t, g in enumerate(gradients.astype(np.float64).mean(1), 1):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g if t <= warm_up else v
        x = x - 0.1 * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999 ** min(t, warm_up))) + 1e-8)
        path.append(x)
    return np.stack(path)


def test_the_identity_is_adam_whose_second_moment_stays():
    method = optim.one_bit_adam(0.1, optim.dense_mean("data"), warm_up=5)
    path, _ = lanes(method, given, jnp.zeros(10), 12)
    np.testing.assert_allclose(path, frozen_adam(GRADIENTS, 5), rtol=1e-4, atol=1e-5)
    assert abs(path[-1] - frozen_adam(GRADIENTS, 12)[-1]).max() > 1e-2
    adam, state, x = optax.adam(0.1), None, jnp.zeros(10)
    for t in range(5):
        state = state or adam.init(x)
        updates, state = adam.update(jnp.asarray(GRADIENTS[t].mean(0)), state)
        x = optax.apply_updates(x, updates)
        np.testing.assert_allclose(path[t], x, rtol=1e-5)


def test_what_had_no_gradient_does_not_step_and_both_phases_are_counted():
    def dead(x, t, i):  # until some come after the warm-up
        return jnp.where(DEAD & (t < 8), 0, given(x, t, i))

    method = optim.one_bit_adam(0.1, optim.compressed_mean(optim.sign(block=8), "data"), warm_up=5)
    path, state = lanes(method, dead, jnp.zeros(10), 12)
    assert (path[:, DEAD] == 0).all() and (path[:, ~DEAD] != 0).all()
    assert 0.01 < abs(path[-1] - path[5])[~DEAD].min() and abs(path).max() < 2
    shard = 3  # of 10 entries, filled up; signs of a shard are a byte and a scale
    whole, signs = (2 * (SENDERS - 1) * n for n in (4 * shard, 1 + 4))
    assert optim.report(state).sent_nbytes == 5 * whole + 7 * signs + 12 * 6  # and an i32


def test_a_step_that_is_skipped_moves_no_schedule():
    method = optim.one_bit_adam(lambda t: 0.1 / (1 + t), optim.dense_mean("data"), warm_up=5)

    def run(gradients):
        def step(state, g):
            return tuple(reversed(method.update(g, state)))

        return jax.lax.scan(step, method.init(jnp.zeros(10)), gradients)[1]

    bad = GRADIENTS[:3].copy()
    bad[1, 2, 3], bad[2] = np.nan, GRADIENTS[1]
    run = jax.jit(jax.vmap(run, in_axes=1, axis_name="data"))
    good, skipped = run(GRADIENTS[:3]), run(bad)
    assert np.isnan(skipped[:, 1]).all()
    np.testing.assert_array_equal(skipped[:, 2], good[:, 1])


def test_no_warm_up_is_refused():
    with pytest.raises(UnsupportedInput, match="warm_up of at least 1"):
        optim.one_bit_adam(0.1, optim.dense_mean("data"), warm_up=0)
    with pytest.raises(UnsupportedInput, match="b2 of at least 0 and below 1"):
        optim.one_bit_adam(0.1, optim.dense_mean("data"), warm_up=1, b2=1.0)
    with pytest.raises(UnsupportedInput, match="eps of at least 0"):
        optim.one_bit_adam(0.1, optim.dense_mean("data"), warm_up=1, eps=-1.0)


def test_whole_gradients_of_shards_are_refused_by_all_that_meet():
    mean = optim.dense_mean("data")
    for method in (
        optim.one_bit_adam(0.1, mean, warm_up=1),
        optim.zero_one_adam(0.1, mean, freeze=1),
        optim.outer(optax.sgd(0.1), mean, every=1),
        optim.fetch_sgd("data"),
        optim.adam8bit(0.1),
    ):

        def run(x, method=method):
            return method.update(x, method.init(x[:1]), x[:1])[0]

        with pytest.raises(UnsupportedInput, match=r"expected an array of the shape \(1, 4\)"):
            jax.eval_shape(jax.vmap(run, axis_name="data"), jnp.ones((2, 2, 4)))


def test_signs_of_momentum_come_as_near_as_adam_where_adam_of_signs_does_not():
    rate = optax.cosine_decay_schedule(0.3, STEPS)
    signs = optim.compressed_mean(optim.sign(block=16), "data")

    def off(method):
        return distance(lanes(method, regression, jnp.zeros(WIDTH), STEPS)[0])

    adam = off(optax.chain(optim.compressed(optim.dense_mean("data")), optax.adam(rate)))
    assert off(optim.one_bit_adam(rate, signs, warm_up=60)) < 1.15 * adam
    assert off(optax.chain(optim.error_feedback(signs), optax.adam(rate))) > 1.3 * adam
