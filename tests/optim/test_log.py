"""Bytes are counted to the last one, above 4 GiB a step and in all."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.optim import log


def test_bytes_are_carried_from_word_to_word():
    sent, dense, add = 0xFFFFFFFF, (7 << 32) + 0x1FFFF, jax.jit(log.step, static_argnums=(3, 4))
    found = log.start()
    for i in range(5):
        found = add(found, jnp.array(i != 2), jnp.float32(i), sent, dense)
    totals = np.asarray(found.nbytes).astype(object)
    assert (totals @ np.array([1, 1 << 32], object)).tolist() == [5 * sent, 5 * dense]
    assert (found.count, found.skipped, found.error_norm.value) == (5, 1, 4)


def test_a_new_log_can_be_donated():
    found = jax.jit(lambda x: x, donate_argnums=0)(log.start())
    assert found.count == found.skipped == 0


def test_the_error_of_a_skipped_step_is_that_of_the_one_before():
    found = log.step(log.start(), jnp.array(True), jnp.float32(3), 0, 0)
    found = log.step(found, jnp.array(False), jnp.float32(jnp.nan), 0, 0)
    assert found.error_norm.value == 3
