"""Curvatures that span decades, with noise: what rounds small moments to zero explodes."""

import jax
import jax.numpy as jnp
import numpy as np

SIZE = 1024


def error(transform, *, decades=3.0, steps=150, step=2e-2):
    """Mean square distance from the optimum, of 1 at the start, after steps against what
    the transformation returns."""
    random = np.random.default_rng(0)
    curvature = jnp.asarray(10 ** random.uniform(-decades, 0, SIZE), jnp.float32)
    noise = jnp.asarray(0.3 * random.normal(size=(steps, SIZE)), jnp.float32)
    x = jnp.ones(SIZE)

    def move(carry, noise):
        x, state = carry
        update, state = transform.update(curvature * (x + noise), state, x)
        return (x - step * update, state), None

    run = jax.jit(lambda x, state: jax.lax.scan(move, (x, state), noise)[0][0])
    return float(jnp.square(run(x, transform.init(x))).mean())
