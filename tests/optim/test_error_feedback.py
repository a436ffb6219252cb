"""Error feedback: sign with it comes to the minimum, sign alone stays away."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp import optim
from tests.optim.inputs import descend

CENTRES = jnp.asarray(np.random.default_rng(1).exponential(size=(4, 16)).astype(np.float32) ** 2)


def gradients(x):
    """Of |x - c|^2 / 2 for each sender's c, skew: most entries on one side of their mean."""
    return x - CENTRES


def off(transform, step):
    best = CENTRES.mean(0)
    path = descend(transform, gradients, best + 1, step=step, steps=4000)
    return np.linalg.norm(path[-100:] - best, axis=1).max() / 4  # of the way at the start


def test_sign_with_feedback_converges_where_sign_alone_does_not():
    method = optim.sign(block=16)
    near, nearer = (off(optim.error_feedback(method), step) for step in (0.01, 0.002))
    assert nearer < 0.3 * near and nearer < 0.03  # as near as the step is small
    assert off(optim.compressed(method), 0.002) > 0.2


def test_all_that_is_not_sent_is_kept():
    transform = optim.error_feedback(optim.top_k(0.25))
    state, total = transform.init(jnp.zeros(16)), 0.0
    update = jax.jit(transform.update)
    for i in range(3):
        out, state = update(CENTRES[i], state)
        total = total + out
    np.testing.assert_allclose(total + state.own.value[0], CENTRES[:3].sum(0), rtol=1e-5)
    assert np.count_nonzero(out) == 4


def test_what_waits_beyond_float16_is_sent_in_parts():
    transform = optim.error_feedback(optim.top_k(0.02))
    g = jnp.full(50, 3000.0, jnp.float16)  # one of 50 a step: 150000 wait, and 65504 can go

    def move(state, _):
        out, state = transform.update(g, state)
        return state, out

    state, outs = jax.lax.scan(move, transform.init(g), None, 100)
    assert np.isfinite(outs).all() and state.log.skipped == 0
    total = outs.astype(jnp.float32).sum(0) + state.own.value[0]
    np.testing.assert_allclose(total, np.full(50, 3e5), rtol=1e-5)
    bad, _ = transform.update(g.at[0].set(jnp.inf), state)
    assert not np.isfinite(bad).all()
