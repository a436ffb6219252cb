"""A step of each method whose senders meet in ways of their own, and senders to run it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcomp import optim
from jaxcomp.optim.own_params import own_params

SENDERS = 4
PARAMS = {"w": jnp.ones(5, jnp.bfloat16), "s": jnp.float32(2)}
DATA = np.random.default_rng(0).normal(size=(2 * SENDERS, 5)).astype(np.float32)


def loss(params, batch):
    return jnp.square(batch @ params["w"].astype(jnp.float32) * params["s"] - batch[:, 0]).mean()


def of_updates(transform, local):
    def step(params, state, batch):
        at = own_params(params, state) if local else params
        gradients = jax.grad(loss)(at, batch)
        updates, state = transform.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, jnp.zeros(())

    return transform, step


def of_rounds(rounds):
    def step(params, state, batch):
        batches = batch[:, None]  # a step for each row
        params, state = rounds.round(params, state, jax.grad(loss), batches)
        return params, state, jnp.zeros(())

    return rounds, step


def case(name):
    """(method, step) by name; in six steps each comes to all that it does."""
    method = optim.compressed_mean(optim.sign(block=8), "data")
    if name == "one_bit_adam":
        return of_updates(optim.one_bit_adam(0.01, method, warm_up=2), False)
    if name == "zero_one_adam":
        options = dict(freeze=3, refreshes=1, local=2, local_doubling=1)
        return of_updates(optim.zero_one_adam(0.01, method, **options), True)
    if name == "outer":
        return of_updates(optim.outer(optax.adam(0.01), method, every=2, overlap=True), True)
    return of_rounds(getattr(optim, name)(method, local_rate=0.01))


NAMES = ("one_bit_adam", "zero_one_adam", "outer", "scallion", "scafcom")


def lanes(transform, gradients, start, steps, *, local=False):
    """(x [steps, d], state of the first sender) after gradients(x, t, i) of each sender i.

    local: whether gradients are taken where the sender is, not where all of them are.
    """

    def sender(i):
        def move(carry, t):
            x, state = carry
            at = own_params(x, state) if local else x
            updates, state = transform.update(gradients(at, t, i), state, x)
            x = optax.apply_updates(x, updates)
            return (x, state), x

        (_, state), path = jax.lax.scan(move, (start, transform.init(start)), jnp.arange(steps))
        return path, state

    run = jax.jit(jax.vmap(sender, axis_name="data"))
    path, state = jax.device_get(run(jnp.arange(SENDERS)))
    np.testing.assert_array_equal(path, np.broadcast_to(path[:1], path.shape))
    return path[0], jax.tree.map(lambda x: x[0], state)


WIDTH, STEPS = 64, 300
RANDOM = np.random.default_rng(1)
SCALES = np.exp(0.5 * RANDOM.normal(size=WIDTH)).astype(np.float32)  # curvatures from 0.1 to 10
# Senders want different things, and most of them on the same side of what all want.
WANTED = (RANDOM.exponential(size=(SENDERS, WIDTH)) ** 2 / SCALES).astype(np.float32)
BEST = WANTED.mean(0)
INPUTS = jnp.asarray(RANDOM.normal(size=(STEPS, SENDERS, 8, WIDTH)) * SCALES, jnp.float32)


def regression(x, t, i):
    """The gradient of <input, x - WANTED_i>^2 / 2, the mean over the batch of a step and sender."""
    batch = INPUTS[t, i]
    return batch @ (x - jnp.asarray(WANTED)[i]) @ batch / len(batch)


def distance(path):
    """Of the last steps, the mean length of x - BEST in units of the inputs, 1 at the start."""
    lengths = np.linalg.norm((path[-30:] - BEST) * SCALES, axis=1)
    return lengths.mean() / np.linalg.norm(BEST * SCALES)
