"""4 bits are slower than Adam where curvatures differ, and do not explode or drift."""

import jax
import jax.numpy as jnp
import optax

from jaxcomp import optim, tree
from tests.optim.quadratic import error
from tests.optim.test_moments import ALL, PARAMS, gradients


def test_it_gets_there_more_slowly_and_does_not_explode():
    transform = optax.chain(optim.adam4bit(1.0, **ALL), optax.scale(-1))
    exact = error(optax.scale_by_adam(), decades=1)
    # v of at least a 16th of the largest: entries of small gradients take smaller steps.
    assert exact < error(transform, decades=1) < 0.02  # of 1; Adam has 0.002
    assert error(transform, decades=5) < 1


def test_zero_gradients_do_not_drift_though_v_has_no_zero():
    transform = optim.adam4bit(1e-2)
    params = {"w": PARAMS["w"]}
    g = gradients(0, params)["w"].at[:, 7].set(0)
    state, update = transform.init(params), jax.jit(transform.update)
    for _ in range(3):
        out, state = update({"w": g}, state)
    assert (out["w"][:, 7] == 0).all() and (out["w"][:, 8] != 0).all()
    assert tree.nbytes(state[0].moments) == 16 * (256 + 2 * 4)
    assert jnp.isfinite(out["w"]).all()
