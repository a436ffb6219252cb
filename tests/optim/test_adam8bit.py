"""8 bits take Adam's steps, and a linear map does not; what optax offers composes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from jaxcomp import optim, tree
from jaxcomp.kernels.dynamic_map import LINEAR4, SIGNED
from tests.optim.quadratic import error
from tests.optim.test_moments import ALL, PARAMS, gradients


def run(transform, *, steps=3, params=PARAMS):
    """The updates of all steps, and the last state."""
    state, update, outs = transform.init(params), jax.jit(transform.update), []
    for step in range(steps):
        out, state = update(gradients(step, params), state, params)
        outs.append(out)
    return outs, state


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nesterov": True, "eps_root": 1e-6},
        {"weight_decay": 0.1, "mask": {"w": True, "b": False, "s": False}},
    ],
    ids=["adam", "nesterov", "adamw"],
)
def test_in_float32_it_is_optax(options):
    rate = optax.linear_schedule(1e-2, 1e-3, 4)
    of_optax = optax.adamw if "mask" in options else optax.adam
    params = {**PARAMS, "b": jnp.zeros(3)}
    ours = run(optim.adam8bit(rate, where=lambda *_: False, **options), params=params)[0]
    theirs = run(of_optax(rate, **options), params=params)[0]
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-8)


def linear_v():
    """Adam in float32 but for v, rounded to 255 equal steps: the baseline that explodes."""
    adam = optax.scale_by_adam()

    def rounded(v):
        rows = v.reshape(-1, 256)
        step = rows.max(1, keepdims=True) / 255
        return (jnp.round(rows / jnp.where(step == 0, 1, step)) * step).reshape(v.shape)

    def update(updates, state, params=None):
        out, state = adam.update(updates, state)
        return out, state._replace(nu=rounded(state.nu))

    return optax.GradientTransformation(adam.init, update)


def test_it_ends_where_adam_does_and_a_linear_map_nowhere():
    exact = error(optax.scale_by_adam())
    eight = error(optim.scale_by_adam8bit(**ALL))
    assert abs(eight - exact) < 0.05 * exact and exact < 0.02
    assert error(linear_v()) > 100  # 1 is where it began


def test_moments_of_four_decades_less_do_not_explode_either():
    # v is then below the lowest level: rounded to zero, such entries ended 42 from the optimum.
    assert error(optim.scale_by_adam8bit(**ALL), decades=5) < 0.5


def test_v_in_4_bits_alone():
    transform = optim.scale_by_adam8bit(maps=(SIGNED, LINEAR4), **ALL)
    state = run(transform, params={"w": PARAMS["w"]})[1]
    assert tree.nbytes(state.moments) == 16 * (256 + 128 + 2 * 4)


def test_it_is_the_base_of_galore():
    params = {"w": PARAMS["w"]}
    small = {"where": lambda path, leaf: True, "block": 64}
    base = optim.adam8bit(1e-2, **small)
    eight = run(optax.contrib.scale_by_galore(8, base_optimizer=base), params=params)
    exact = run(optax.contrib.galore(1e-2, 8), params=params)
    for a, b in zip(eight[0], exact[0], strict=True):
        np.testing.assert_allclose(a["w"], b["w"], atol=2e-3)
    base_state = eight[1].base_optimizer_state[0]
    assert base_state.moments[0]["w"].codes.shape == (16, 8)  # and not 16 x 256


def test_bfloat16_gradients_and_a_mask_of_optax():
    params = {"w": PARAMS["w"].astype(jnp.bfloat16)}
    outs, state = run(optim.adam8bit(1e-2), params=params)
    assert outs[0]["w"].dtype == jnp.bfloat16
    exact = run(optax.adam(1e-2), params={"w": PARAMS["w"]})[0]
    np.testing.assert_allclose(np.float32(outs[0]["w"]), exact[0]["w"], rtol=0.02)
    masked = optax.masked(optim.adam8bit(1e-2), {"w": False, "b": True, "s": True})
    outs, _ = run(masked, steps=1)
    np.testing.assert_array_equal(outs[0]["w"], gradients(0)["w"])
