"""Vectors on which compressors do badly, and senders whose data are unlike."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.optim.random import uniform


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


def descend(transform, gradients, start, *, step, steps, noise=0.0):
    """x after gradient steps, each along the mean of what the senders send. [steps + 1, d].

    gradients(x) -> [senders, d]; the axis of senders is named so. noise: of the gradients, its
    deviation; skew, like that of rare examples.
    """
    shape = jax.eval_shape(gradients, start)

    def move(carry, i):
        x, state = carry
        g = gradients(x)
        if noise:
            drawn = uniform(jnp.stack([i, 7]).astype(jnp.uint32), shape.shape)
            g += noise * (-jnp.log(drawn + 2.0**-25) - 1)  # exponential
        sent, state = jax.vmap(transform.update, axis_name="senders")(g, state)
        x = x - step * sent.mean(0)
        return (x, state), x

    def run(x):
        state = jax.vmap(transform.init, axis_name="senders")(jnp.zeros(shape.shape))
        return jax.lax.scan(move, (x, state), jnp.arange(steps))[1]

    return np.asarray(jax.jit(run)(start))
