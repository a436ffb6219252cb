"""Outer steps: gradient descent as their limit, and where they come with few means."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcomp import UnsupportedInput, optim
from jaxcomp.formats import INT4
from tests.optim.meeting_cases import STEPS, WIDTH, distance, lanes, regression
from tests.optim.test_one_bit_adam import GRADIENTS, given

WHOLE = optax.sgd(1.0)  # the mean of where senders have come


def test_one_step_each_is_descent_along_the_mean():
    method = optim.outer(optax.sgd(0.1), optim.dense_mean("data"), every=1, optimizer=WHOLE)
    path, state = lanes(method, given, jnp.zeros(10), 12, local=True)
    np.testing.assert_allclose(path, -0.1 * np.cumsum(GRADIENTS.mean(1), 0), rtol=1e-4, atol=1e-6)
    assert optim.report(state).ratio == pytest.approx(60 / 78, rel=0.01)


@pytest.mark.parametrize("overlap", [False, True])
def test_the_outer_optimizer_sees_how_far_senders_came(overlap):
    options = dict(every=3, optimizer=optax.sgd(0.7, momentum=0.9, nesterov=True))
    method = optim.outer(optax.sgd(0.1), optim.dense_mean("data"), overlap=overlap, **options)
    path, state = lanes(method, given, jnp.zeros(10), 12, local=True)
    differences = 0.1 * GRADIENTS.mean(1).reshape(4, 3, 10).sum(1)
    if overlap:
        differences = np.concatenate([0 * differences[:1], differences[:-1]])
    x, momentum, outer_path = np.zeros(10), np.zeros(10), []
    for d in differences:
        momentum = d + 0.9 * momentum
        x = x - 0.7 * (d + 0.9 * momentum)
        outer_path.append(x)
    expected = np.repeat([np.zeros(10), *outer_path], 3, axis=0)[1:13]
    np.testing.assert_allclose(path, expected, rtol=1e-4, atol=1e-6)


def test_chips_meet_at_every_step_and_slices_now_and_then():
    inner = optax.chain(optim.compressed(optim.dense_mean("chips")), optax.sgd(0.1))
    method = optim.outer(inner, optim.dense_mean("slices"), every=3, optimizer=WHOLE)

    def sender(gradients):
        def move(carry, g):
            updates, state = method.update(g, carry[1], carry[0])
            return (carry[0] + updates, state), carry[0] + updates

        return jax.lax.scan(move, (jnp.zeros(10), method.init(jnp.zeros(10))), gradients)[1]

    both = jax.vmap(jax.vmap(sender, axis_name="chips"), axis_name="slices")
    path = jax.jit(both)(np.moveaxis(GRADIENTS.reshape(12, 2, 2, 10), 0, 2))
    expected = -0.1 * np.cumsum(GRADIENTS.mean(1), 0)[[2, 5, 8, 11]]
    expected = np.broadcast_to(expected, (2, 2, 4, 10))  # all of them are at one place
    np.testing.assert_allclose(path[:, :, 2::3], expected, rtol=1e-4, atol=1e-6)


def test_impossible_options_are_named():
    with pytest.raises(UnsupportedInput, match="every of at least 1"):
        optim.outer(optax.sgd(0.1), optim.dense_mean("data"), every=0)
    method = optim.outer(optax.sgd(0.1), optim.dense_mean("data"), every=1)
    with pytest.raises(UnsupportedInput, match="expected params"):
        method.update(jnp.zeros(2), None)


def test_momentum_of_few_means_in_four_bits_leads_further_than_averages():
    rate = optax.cosine_decay_schedule(0.05, STEPS)

    def run(method, **options):
        method = optim.outer(optax.adam(rate), method, every=8, **options)
        path, state = lanes(method, regression, jnp.zeros(WIDTH), STEPS, local=True)
        return distance(path), optim.report(state).ratio

    off, ratio = run(optim.compressed_mean(optim.quantized(INT4), "data"))
    assert off < 0.3 and ratio > 40
    assert run(optim.dense_mean("data"), optimizer=WHOLE)[0] > 0.5
