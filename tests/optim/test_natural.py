"""Natural compression: powers of two, without bias, within an eighth."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp import optim
from tests.checks_optim import check_compressor
from tests.optim.inputs import hard

KEY = jnp.array([1, 2], jnp.uint32)


def test_the_law():
    middle = np.full((1, 600), 4 / 3, np.float32)  # where the bound is met: E = (x - 1)(2 - x)
    worst = check_compressor(optim.natural(), np.concatenate([hard(), middle]))
    np.testing.assert_allclose(worst.max(), 1 / 8, rtol=0.02)


def test_powers_of_two_come_back_and_others_become_their_neighbours():
    method = optim.natural()
    x = jnp.array([1, -2, 0.25, -0.0, 2.0**127, 3, -5, 3e38, jnp.nan, -jnp.inf])
    sent, _ = jax.jit(method.compress)(KEY, x, ())
    assert sent.nbytes == 10 + 2
    back = np.asarray(method.decompress(sent))
    np.testing.assert_array_equal(back[:5], x[:5])
    assert back[5] in (2, 4) and back[6] in (-4, -8) and back[7] == 2.0**127
    assert np.isposinf(back[8]) and np.isneginf(back[9])
