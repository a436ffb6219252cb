"""Everybody hears everybody: the mean is exactly that of what was sent."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp import optim
from tests.checks_optim import check_exchange

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(4, 60)).astype(np.float32)


def test_law_and_the_largest_of_each_sender():
    mean = check_exchange(lambda axis: optim.gathered(optim.top_k(0.1), axis), INPUTS)
    largest = np.argsort(-abs(INPUTS))[:, :6]
    expected = np.zeros_like(INPUTS)
    np.put_along_axis(expected, largest, np.take_along_axis(INPUTS, largest, 1), 1)
    np.testing.assert_allclose(mean, expected.mean(0), rtol=1e-6)


def test_senders_draw_apart_and_a_sum_of_entries_is_that_of_arrays():
    fast, slow = optim.random_k(0.1), optim.random_k(0.1)._replace(add=None)

    def means(x):
        both = [optim.gathered(method, "senders") for method in (fast, slow)]
        return [each.mean(jnp.zeros(2, jnp.uint32), x, ())[1] for each in both]

    mean, same = jax.jit(jax.vmap(means, axis_name="senders"))(INPUTS)
    assert np.count_nonzero(mean[0]) > 12
    np.testing.assert_allclose(mean, same, rtol=1e-6)


def test_a_device_sends_its_wire_to_all_others():
    def nbytes(x):
        exchange = optim.gathered(optim.sign(block=64), "senders")
        return jnp.zeros(()) + exchange.nbytes(x)

    found = jax.vmap(nbytes, axis_name="senders")(jnp.zeros((4, 128)))
    assert (found == 3 * (128 // 8 + 2 * 4)).all()
