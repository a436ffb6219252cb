"""The report counts the bytes of all steps and senders, above 4 GiB too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcomp import UnsupportedInput, optim


def test_bytes_norms_and_steps_through_a_chain():
    gradient = jnp.array([4.0, 3, 0, 0, 0, 0, 0, 0])
    transform = optax.chain(optim.error_feedback(optim.top_k(1 / 8)), optax.adam(0.1))
    state = transform.init(gradient)
    update = jax.jit(transform.update)
    for _ in range(3):
        _, state = update(gradient, state)
    found = optim.report(state)
    # 3, then 6 - 6, then 4 or 3: messages (4, 3), (4, 6), (8, 3)
    assert found == (3, 3 * (4 + 3), 3 * 32, 32 / 7, 3.0, 0)


def test_senders_add_up_and_large_wires_are_exact():
    transform = optim.compressed(optim.identity())
    state = jax.vmap(transform.init)(jnp.zeros((3, 4)))
    state = state._replace(
        count=jnp.array([2, 2, 2]),
        nbytes=jnp.tile(jnp.array([[7, 5], [8, 9]], jnp.uint32), (3, 1, 1)),
    )
    found = optim.report({"here": (state,)})
    assert found.sent_nbytes == 6 * (5 * 2**32 + 7) and found.dense_nbytes == 6 * (9 * 2**32 + 8)
    big = jax.eval_shape(transform.init, jax.ShapeDtypeStruct((2,), jnp.float32))
    assert big.nbytes.shape == (2, 2)


def test_no_state_is_refused():
    with pytest.raises(UnsupportedInput, match="state of jc.optim"):
        optim.report(optax.sgd(0.1).init(np.zeros(3)))
