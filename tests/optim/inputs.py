"""Vectors on which compressors do badly, and senders whose data are unlike."""

import jax
import jax.numpy as jnp
import numpy as np


def hard(size: int = 600) -> np.ndarray:
    """f32[6, size]: even, heavy-tailed, few, one large, tiny, and two equal entries."""
    random = np.random.default_rng(0)
    x = random.normal(size=(6, size))
    x[1] **= 5
    x[2] *= random.random(size) < 0.02
    x[3] = 0.01
    x[3, 5] = 1
    x[4] *= 1e-12
    x[5] = np.arange(size) < 2
    return x.astype(np.float32)


def descend(transform, gradients, start, *, step, steps):
    """x after gradient steps, each along the mean of what the senders send. [steps + 1, d].

    gradients(x) -> [senders, d]; the axis of senders is named so.
    """
    senders = len(gradients(start))
    state = jax.vmap(transform.init)(jnp.zeros((senders, *start.shape)))

    def move(carry, _):
        x, state = carry
        sent, state = jax.vmap(transform.update, axis_name="senders")(gradients(x), state)
        x = x - step * sent.mean(0)
        return (x, state), x

    run = jax.jit(lambda x, state: jax.lax.scan(move, (x, state), None, steps)[1])
    return np.asarray(run(start, state))
