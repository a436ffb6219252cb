"""Momentum in 8 bits against optax.sgd, with gradients that are mostly zero too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcomp import optim, tree
from jaxcomp.base import UnsupportedInput
from tests.optim.test_adam8bit import run
from tests.optim.test_moments import ALL, PARAMS


@pytest.mark.parametrize("nesterov", [False, True])
def test_in_float32_it_is_optax(nesterov):
    params = {**PARAMS, "b": jnp.zeros(3)}
    where = lambda *_: False  # noqa: E731
    ours = run(optim.momentum8bit(0.1, where=where, nesterov=nesterov), params=params)[0]
    theirs = run(optax.sgd(0.1, 0.9, nesterov=nesterov), params=params)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), ours, theirs)


def test_sparse_gradients_stay_in_their_places_and_arrive():
    """Rows of a table that are seen once in a while, some of them never."""
    random = np.random.default_rng(0)
    rows = jnp.asarray(random.integers(0, 12, (60, 4)))
    target = jnp.asarray(random.normal(size=(16, 256)), jnp.float32)

    def end(transform):
        def move(carry, rows):
            x, state = carry
            g = jnp.zeros_like(x).at[rows].set((x - target)[rows])
            update, state = transform.update(g, state)
            return (x + update, state), None

        x = jnp.zeros((16, 256))
        scan = jax.jit(lambda x, state: jax.lax.scan(move, (x, state), rows)[0])
        return scan(x, transform.init(x))

    x, state = end(optim.momentum8bit(0.1, **ALL))
    exact, _ = end(optax.sgd(0.1, 0.9))
    assert (x[12:] == 0).all()  # what was never seen has not moved
    off = jnp.square(x - target)[:12].mean()
    assert abs(off - jnp.square(exact - target)[:12].mean()) < 0.02 * jnp.square(target[:12]).mean()
    np.testing.assert_allclose(x, exact, atol=0.1)
    assert tree.nbytes(state[0].moments) == 16 * (256 + 4)


def test_refusals():
    with pytest.raises(UnsupportedInput, match="momentum of at least 0 and below 1"):
        optim.momentum8bit(0.1, 1.0)
