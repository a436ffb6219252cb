"""Lion in 8 bits against optax's: the same signs but for a few, and the same way on a problem."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcomp import optim, tree
from jaxcomp.base import UnsupportedInput
from tests.optim.quadratic import error
from tests.optim.test_adam8bit import run
from tests.optim.test_moments import ALL, PARAMS


def test_in_float32_it_is_optax():
    params = {**PARAMS, "b": jnp.zeros(3)}
    ours = run(optim.lion8bit(1e-3, where=lambda *_: False), params=params)[0]
    theirs = run(optax.lion(1e-3), params=params)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)


def test_few_signs_differ_and_the_state_is_a_quarter():
    ours, state = run(optim.lion8bit(1e-3, weight_decay=0), steps=6)
    theirs = run(optax.lion(1e-3, weight_decay=0), steps=6)[0]
    same = np.sign(ours[-1]["w"]) == np.sign(theirs[-1]["w"])
    assert 0.98 < same.mean() < 1
    assert tree.nbytes(state[0].moments[0]["w"]) == 16 * (256 + 4) <= 0.26 * 4 * 4096


def test_it_ends_where_lion_does():
    exact = error(optax.scale_by_lion(b1=0.9, b2=0.99))
    eight = error(optax.chain(optim.lion8bit(1.0, weight_decay=0, **ALL), optax.scale(-1)))
    assert abs(eight - exact) < 0.1 * exact


def test_refusals():
    with pytest.raises(UnsupportedInput, match="b1 of at least 0 and below 1"):
        optim.lion8bit(1e-3, b1=1.5)
