"""EControl: unlike senders as EF21, noise as error feedback, and both of them at its limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import UnsupportedInput, optim
from tests.optim.inputs import descend

RANDOM = np.random.default_rng(2)
CURVES = jnp.asarray(RANDOM.uniform(0.5, 2, (4, 16)), jnp.float32)
CENTRES = jnp.asarray(RANDOM.normal(size=(4, 16)), jnp.float32)
BEST = (CURVES * CENTRES).sum(0) / CURVES.sum(0)
TOP_1 = optim.top_k(1 / 16)


def off(method, step=0.01, noise=0.0):
    """Distance from the minimum of unlike quadratics, in the last quarter of a run."""

    def gradients(x):
        return CURVES * (x - CENTRES)

    path = descend(method, gradients, BEST + 1, step=step, steps=4000, noise=noise)
    return np.linalg.norm(np.float64(path[3000:]) - np.float64(BEST), axis=1).mean()


def test_it_is_near_where_either_of_the_others_is_not():
    control = optim.econtrol(TOP_1, 1 / 16)
    # Unlike senders: at a constant step error feedback stays away, the others come to the minimum.
    assert off(control, 0.05) < 1e-5 and off(optim.error_feedback(TOP_1), 0.05) > 0.2
    # Noise: ef21 wanders, for what it does not send is never made up for.
    assert off(control, noise=1.0) < 0.6 * off(optim.ef21(TOP_1), noise=1.0)


def test_errors_in_full_feed_on_themselves():
    assert not off(optim.econtrol(TOP_1, 0.5), 0.002) < 1e3


def test_limits_and_what_is_owed():
    gradients = jnp.asarray(RANDOM.normal(size=(20, 4, 16)), jnp.float32)  # [steps, senders, d]
    exchange = optim.gathered(TOP_1, "senders")

    @functools.partial(jax.vmap, in_axes=1, axis_name="senders")
    def run(gradients):
        def follow(transform):
            def step(state, g):
                return tuple(reversed(transform.update(g, state)))

            end, outs = jax.lax.scan(step, transform.init(gradients[0]), gradients)
            return outs, end.own.value[0]

        return [
            follow(each)
            for each in (
                optim.econtrol(exchange, 0.0),
                optim.ef21(exchange),
                optim.econtrol(exchange, 1.0, pace=0.0),
                optim.error_feedback(exchange),
                optim.econtrol(exchange, 1 / 16),
                optim.econtrol(optim.gathered(optim.identity(), "senders"), 1 / 16),
            )
        ]

    (a, _), (ef21, _), (b, _), (feedback, _), (outs, (error, _)), (exact, _) = jax.jit(run)(
        gradients
    )
    np.testing.assert_array_equal(a, ef21)
    np.testing.assert_allclose(b, feedback, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(exact[0], gradients.mean(1), atol=1e-5)
    total = outs[0].sum(0) + error.mean(0)
    np.testing.assert_allclose(total, gradients.mean(1).sum(0), rtol=1e-4, atol=1e-4)


def test_dials_are_shares():
    with pytest.raises(UnsupportedInput, match=r"expected eta of 0 \.\.\. 1, got 2"):
        optim.econtrol(TOP_1, 2.0)
    with pytest.raises(UnsupportedInput, match="expected pace"):
        optim.econtrol(TOP_1, 0.1, pace=-1.0)
