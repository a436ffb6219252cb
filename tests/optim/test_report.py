"""The report counts the bytes of all steps and senders, above 4 GiB too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcomp import UnsupportedInput, optim
from jaxcomp.optim.log import start, step
from jaxcomp.optim.senders import PerSender


def test_bytes_norms_and_steps_through_a_chain():
    gradient = jnp.array([4.0, 3, 0, 0, 0, 0, 0, 0])
    transform = optax.chain(optim.error_feedback(optim.top_k(1 / 8)), optax.adam(0.1))
    state = transform.init(gradient)
    update = jax.jit(transform.update)
    for _ in range(3):
        _, state = update(gradient, state)
    found = optim.report(state)
    # 3, then 6 - 6, then 4 or 3: messages (4, 3), (4, 6), (8, 3)
    assert found == (3, 3 * (4 + 4), 3 * 32, 4.0, 3.0, 0)


def test_senders_add_up_and_large_wires_are_exact():
    gigabytes = 5 * 2**32 + 2**31 + 7
    log = start()
    for _ in range(3):
        log = step(log, jnp.array(True), jnp.ones(()), gigabytes, gigabytes + 1)
    found = optim.report({"here": (jax.tree.map(lambda x: jnp.stack([x, x]), log),)})
    assert found.sent_nbytes == 6 * gigabytes and found.dense_nbytes == 6 * (gigabytes + 1)
    assert found.steps == 3 and found.error_norm == np.float32(2**0.5)


def test_what_senders_count_for_themselves_is_counted_once():
    log = step(start(), jnp.array(True), jnp.ones(()), 7, 70)
    own = PerSender((jax.tree.map(lambda x: jnp.stack([x] * 4), log),))
    assert optim.report({"own": own, "all": log}) == (1, 14, 140, 10.0, np.float32(5**0.5), 0)


def test_no_state_is_refused():
    with pytest.raises(UnsupportedInput, match="state of jc.optim"):
        optim.report(optax.sgd(0.1).init(np.zeros(3)))
