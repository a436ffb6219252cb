"""Rounds: descent as their limit, who takes part, and averages that lead astray."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import UnsupportedInput, optim
from jaxcomp.optim.rounds import rounds
from tests.checks_optim import check_rounds

CLIENTS, WIDTH, LOCAL = 8, 12, 4
RANDOM = np.random.default_rng(4)
LABELS = np.eye(4)[np.arange(CLIENTS) % 4]  # one class for each client
CENTRES = RANDOM.normal(size=(4, WIDTH))
INPUTS = (LABELS @ CENTRES)[:, None] + RANDOM.normal(size=(CLIENTS, 16, WIDTH))
DATA = jnp.asarray(INPUTS, jnp.float32), jnp.asarray(LABELS, jnp.float32)


def gradient(params, batch):
    """Of softmax regression on one client's data, with |params|^2 / 20 beside it."""
    inputs, label = batch
    wrong = jax.nn.softmax(inputs @ params) - label
    return inputs.T @ wrong / len(inputs) + 0.1 * params


def run(method, count, *, part=None, local=LOCAL, start=None):
    """params after each round, and the state of the first client. part: bool[count, clients]."""
    part = np.ones((count, CLIENTS), bool) if part is None else part
    start = jnp.zeros((WIDTH, 4)) if start is None else start

    def client(data, taking_part):
        batches = jax.tree.map(lambda x: jnp.stack([x] * local), data)

        def one(carry, part):
            params, state = method.round(*carry, gradient, batches, part)
            return (params, state), params

        (_, state), path = jax.lax.scan(one, (start, method.init(start)), taking_part)
        return path, state

    move = jax.jit(jax.vmap(client, in_axes=(0, 1), axis_name="clients"))
    path, state = jax.device_get(move(DATA, part))
    np.testing.assert_array_equal(path, np.broadcast_to(path[:1], path.shape))
    return path[0], state


@functools.cache
def best():
    """The minimum of what all clients want."""

    def everybody(params, _):
        return params - 0.5 * jax.vmap(gradient, (None, 0))(params, DATA).mean(0), None

    run = jax.jit(lambda x: jax.lax.scan(everybody, x, None, 1000)[0])
    return np.asarray(run(jnp.zeros((WIDTH, 4))))


def distance(path):
    """Of the last rounds, the largest distance to the minimum, 1 at the start."""
    return np.linalg.norm(path[-10:] - best(), axis=(1, 2)).max() / np.linalg.norm(best())


def averaging(method, **options):
    """FedAvg: what clients have come to, compressed."""
    return rounds("averaging", method, lambda g, c, m: (g, m), controls=False, **options)


def halves(count):
    """Half of the clients in each round, others every time."""
    random = np.random.default_rng(5)
    return np.stack([random.permutation(CLIENTS) < CLIENTS // 2 for _ in range(count)])


def test_averages_are_descent_for_one_step_and_lead_astray_for_more():
    check_rounds(averaging)
    method = averaging(optim.dense_mean("clients"), local_rate=0.5)
    assert 0.01 < distance(run(method, 150)[0])


def test_clients_that_stay_out_change_nothing():
    part = np.zeros((3, CLIENTS), bool)
    part[1, :2] = True  # nobody in the first and the last round
    method = optim.scallion(optim.dense_mean("clients"), local_rate=0.2, alpha=0.5)
    path, state = run(method, 3, part=part, local=1)
    assert (path[0] == 0).all() and (path[1] == path[2]).all()
    gradients = np.asarray(jax.vmap(gradient, (None, 0))(jnp.zeros((WIDTH, 4)), DATA))
    np.testing.assert_allclose(path[1], -0.2 * gradients[:2].mean(0), rtol=1e-4, atol=1e-6)
    own = state.own.value[0]
    np.testing.assert_allclose(own[:2], 0.5 * gradients[:2], rtol=1e-4, atol=1e-6)
    assert (own[2:] == 0).all() and state.uplinks.value.value.tolist() == [1, 1] + 6 * [0]
    np.testing.assert_allclose(state.control[0], own.mean(0), rtol=1e-4, atol=1e-6)


def test_impossible_options_are_named():
    with pytest.raises(UnsupportedInput, match="local_rate above 0"):
        averaging(optim.dense_mean("clients"), local_rate=0.0)
    method = averaging(optim.dense_mean("clients"), local_rate=0.1)

    def none(x):
        return method.round(x, method.init(x), gradient, jnp.zeros((0, 3)))

    with pytest.raises(UnsupportedInput, match="leading axis of local steps"):
        jax.vmap(none, axis_name="clients")(jnp.zeros(2))
