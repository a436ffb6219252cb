"""FRUGAL between signSGD and Adam: the limits, the size of its state, choices and resets."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcomp import optim, tree
from jaxcomp.base import UnsupportedInput
from tests.optim.quadratic import error
from tests.optim.test_moments import gradients

PARAMS = {"w": jnp.ones((32, 128)), "b": jnp.ones(32)}


def run(transform, *, steps=3):
    state, outs = transform.init(PARAMS), []
    update = jax.jit(transform.update)
    for step in range(steps):
        out, state = update(gradients(step, PARAMS), state, PARAMS)
        outs.append(out)
    return outs, state


def close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize("make", [optim.by_columns, optim.by_blocks, optim.by_coordinates])
def test_density_1_is_adam_and_is_never_reset(make):
    close(
        run(optim.frugal(1e-2, 1.0, projector=make(), every=2))[0],
        run(optax.adam(1e-2))[0],
    )


def test_density_0_is_the_sign_and_keeps_nothing():
    outs, state = run(optim.frugal(1e-2, 0.0, sign_scale=0.5, weight_decay=0.1))
    sign = jnp.sign(gradients(2, PARAMS)["w"])
    np.testing.assert_allclose(outs[2]["w"], -1e-2 * (0.5 * sign + 0.1), rtol=1e-5)
    assert tree.nbytes(state) < 8 * 32 + 64  # the bias, and counters


@pytest.mark.parametrize(
    "make, extra",
    [(optim.by_columns, 4 * 32), (optim.by_blocks, 4), (optim.by_coordinates, 4 * 1024)],
)
def test_the_state_is_small_from_the_start(make, extra):
    state = optim.frugal(1e-2, 0.25, projector=make()).init(PARAMS)
    whole = 8 * (32 * 128 // 4 + 32)
    assert tree.nbytes(state) == whole + extra + 8 + 4 + 4  # key, count, inner count
    small = optim.scale_by_adam8bit(where=lambda path, leaf: leaf.ndim == 2)
    eight = optim.frugal(1e-2, 0.25, projector=optim.by_blocks(), inner=small).init(PARAMS)
    assert tree.nbytes(eight) == 2 * (1024 + 4 * 4) + 8 * 32 + 4 + 16


def test_embeddings_and_outputs_have_all_their_moments_and_heads_of_attention_do_not():
    params = {"embed": PARAMS, "lm_head": PARAMS, "MultiHeadAttention": PARAMS}
    state = optim.frugal(1.0, 0.25).init(params)[0]
    assert sum(not isinstance(part, tuple) for part in state.parts) == 1
    shapes = {leaf.shape for leaf in jax.tree.leaves(state.inner) if leaf.ndim}
    assert shapes == {(32, 32), (32, 128), (32,)}


def test_parts_change_every_so_many_steps_and_moments_begin_anew():
    transform = optim.frugal(1.0, 0.25, every=2)
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(transform.update, n=1))
    state, parts = transform.init(PARAMS), []
    for step in range(6):
        out, state = update(gradients(0, PARAMS), state)
        frugal = state[0]
        index = [i for i, part in enumerate(frugal.parts) if not isinstance(part, tuple)]
        part = np.asarray(frugal.parts[index[0]])
        parts.append(part.tolist())
        assert len(set(parts[-1])) == 32 and max(parts[-1]) < 128
        assert frugal.inner.count == 1 + step % 2
        # With moments of one gradient alone, the part's steps are signs too, of any size of g.
        np.testing.assert_allclose(abs(out["w"][:, part]), 1, rtol=1e-3)
        m = frugal.inner.moments[0][index[0]]
        exact = (1 - 0.9 ** (1 + step % 2)) * gradients(0, PARAMS)["w"][:, part]
        np.testing.assert_allclose(m, exact, rtol=1e-5)
    assert parts[0] == parts[1] and parts[2] == parts[3] and parts[4] == parts[5]
    assert len({str(part) for part in parts}) == 3


def test_moments_for_more_of_the_space_end_nearer():
    """Between signs alone and Adam: noise is averaged where there are moments."""
    ends = []
    for density in (1.0, 0.5, 0.25, 0.0):
        transform = optim.frugal(1.0, density, where=lambda path, leaf: True)
        ends.append(error(optax.chain(transform, optax.scale(-1)), decades=1))
    assert all(near < 0.95 * far for near, far in zip(ends[:-1], ends[1:], strict=True))


def test_what_is_not_finite_is_seen_and_not_kept():
    transform = optim.frugal(1e-2)
    update = jax.jit(transform.update)
    bad = gradients(0, PARAMS)
    bad["w"] = bad["w"].at[3].set(jnp.nan)
    out, state = update(bad, transform.init(PARAMS))
    assert jnp.isnan(out["w"][3]).all() and jnp.isfinite(out["w"][4]).all()
    assert jax.tree.all(jax.tree.map(lambda x: jnp.isfinite(x).all(), state))
    out, _ = update(jax.tree.map(jnp.zeros_like, PARAMS), transform.init(PARAMS))
    assert (out["w"] == 0).all()


def test_refusals():
    with pytest.raises(UnsupportedInput, match="density from 0 to 1, got 1.5"):
        optim.frugal(1e-2, 1.5)
    with pytest.raises(UnsupportedInput, match="every, a number of steps, got 0"):
        optim.frugal(1e-2, every=0)
