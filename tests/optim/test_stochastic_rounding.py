"""Small steps of bfloat16 parameters are taken on average, where rounding to nearest loses them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcomp import optim
from jaxcomp.base import UnsupportedInput


def end(transform, x, *, steps=64, step=2e-4):
    def move(carry, _):
        x, state = carry
        update, state = transform.update(
            jax.tree.map(lambda x: jnp.full(x.shape, step), x), state, x
        )
        return (optax.apply_updates(x, update), state), None

    run = jax.jit(lambda x, state: jax.lax.scan(move, (x, state), None, steps)[0])
    return run(x, transform.init(x))


def test_a_walk_of_small_steps_arrives_on_average():
    x = {"h": jnp.ones((64, 64), jnp.bfloat16), "f": jnp.ones(3)}
    still, _ = end(optax.identity(), x)
    assert (still["h"] == 1).all()  # steps of 0.0002 at a spacing of 0.0078
    moved, state = end(optim.stochastic_rounding(3), x)
    assert moved["h"].dtype == jnp.bfloat16 and state.count == 64
    # Each of the 64 steps is a spacing up with probability p = 1 / 39: variance 64 p (1 - p).
    mean = np.float32(moved["h"]).mean()
    assert abs(mean - 1 - 64 * 2e-4) < 5 * (64 * 2e-4 * 0.0078 / 64**2) ** 0.5
    np.testing.assert_allclose(moved["f"], 1 + 64 * 2e-4, rtol=1e-5)
    other, _ = end(optim.stochastic_rounding(4), x)
    assert (np.asarray(other["h"]) != np.asarray(moved["h"])).any()


def test_what_is_a_neighbour_already_stays_and_what_is_not_finite_too():
    x = jnp.array([1.0, -2.5, 0, 3e38], jnp.bfloat16)
    transform = optim.stochastic_rounding()
    update = jax.jit(transform.update)
    out, _ = update(jnp.array([0.5, 0, 0, 0]), transform.init(x), x)
    np.testing.assert_array_equal(out, [0.5, 0, 0, 0])
    out, _ = update(jnp.array([jnp.nan, jnp.inf, 0, 0]), transform.init(x), x)
    assert np.isnan(out[0]) and np.isposinf(out[1])
    with pytest.raises(UnsupportedInput, match="parameters to round, got None"):
        transform.update(x, transform.init(x))
