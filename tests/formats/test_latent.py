"""A weight in training: values of the packed leaf bit for bit, gradients of its rule."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.formats.latent import Rule, freeze, in_symmetric_groups, latent, learned
from jaxcomp.formats.layout import to_matrix
from tests.checks import check_leaf

INT3_G16 = jc.formats.INT3._replace(group=16)
RULE = Rule(-4.0, 3.0, 0.25)


def _normal(*shape):
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


def _latent(w, axes, format=INT3_G16, rule=RULE):
    matrix, place = to_matrix(w, axes)
    grouped = in_symmetric_groups(matrix, format)
    steps = jnp.abs(grouped).max(-1) / 5  # not the range: some values lie beyond the grid
    return latent(matrix, format, rule, steps, w.dtype).placed(place)


LAYOUTS = [((32, 8), (-2,)), ((8, 32), (-1,)), ((2, 16, 8), (-3, -2)), ((3, 32, 8), (-2,))]
FORMATS = [
    INT3_G16,
    jc.formats.INT3,
    jc.formats.INT3._replace(group=None),
    jc.formats.INT3._replace(group=24, pad=True),
    jc.formats.TERNARY._replace(scale="float32"),
    jc.formats.Format(1, table=(-1.0, 1.0)),
]


@pytest.mark.parametrize(
    "format, shape, axes",
    [(FORMATS[0], *LAYOUTS[0]), (FORMATS[1], *LAYOUTS[1]), (FORMATS[2], *LAYOUTS[2])]
    + [(format, *LAYOUTS[3]) for format in FORMATS],
)
def test_frozen_is_what_was_trained_bit_for_bit(format, shape, axes):
    w = _normal(*shape)
    leaf = _latent(w, axes, format)
    assert leaf.shape == shape and leaf.layout.axes == axes
    frozen = freeze({"w": leaf})["w"]
    dense = jax.jit(jc.formats.dense)
    np.testing.assert_array_equal(dense(leaf), dense(frozen))
    assert frozen.nbytes < leaf.nbytes / 4
    assert 0 < np.abs(dense(frozen) - w).mean() < np.abs(w).mean()


def test_it_is_a_leaf_that_multiplies_slices_and_stacks():
    check_leaf(_latent(_normal(3, 32, 8), (-2,)))
    stack = _latent(_normal(3, 32, 8), (-2,), jc.formats.INT3._replace(group=None))
    each = replace(stack, steps=jnp.arange(1.0, 4).reshape(3, 1, 1))
    np.testing.assert_array_equal(freeze([each])[0].dense(), each.dense())


@pytest.mark.parametrize("rule", [RULE, Rule(-1.5, 1.5, 0.5), Rule(-2.0, 2.0, 1.0, codes=True)])
def test_gradients_are_differences_of_the_surrogate(rule):
    format = INT3_G16._replace(scale="float32")
    w = np.random.default_rng(0).normal(size=(4, 2, 16))
    steps = np.full((4, 2), 0.4) + np.arange(8).reshape(4, 2) / 40
    weight = np.random.default_rng(1).normal(size=w.shape)
    level = np.clip(np.round(w / steps[..., None]), -4, 3)
    inside = (w / steps[..., None] > rule.low) & (w / steps[..., None] < rule.high)
    assert 0 < inside.sum() < inside.size

    def surrogate(w, steps):
        """Rounding as an error that is held still, in steps; the codes alone outside."""
        s = steps[..., None]
        u = w / s
        if rule.codes:
            return level * s + inside * w
        start = (np.clip(np.round(w0 / s0), -4, 3) - w0 / s0)[...]
        return np.where(inside, (u + start) * s, level * s)

    w0, s0 = w, steps[..., None]

    def difference(function, x, h=1e-6):
        found = np.zeros_like(x)
        for i in np.ndindex(*x.shape):
            up, down = x.copy(), x.copy()
            up[i] += h
            down[i] -= h
            found[i] = ((function(up) - function(down)) * weight).sum() / (2 * h)
        return found

    loss = jax.jit(
        jax.grad(lambda w, s: (learned(w, s, rule, format) * weight).sum(), argnums=(0, 1))
    )
    by_w, by_steps = loss(jnp.asarray(w, jnp.float32), jnp.asarray(steps, jnp.float32))
    np.testing.assert_allclose(by_w, difference(lambda w: surrogate(w, steps), w), atol=1e-4)
    np.testing.assert_allclose(
        by_steps, rule.gain * difference(lambda s: surrogate(w, s), steps), rtol=1e-3, atol=1e-4
    )


def test_steps_beyond_zero_stay_a_grid_and_find_back():
    leaf = _latent(_normal(32, 8), (-2,))
    below = replace(leaf, steps=leaf.steps.at[0, 0].set(-1e-3))
    assert jnp.isfinite(below.dense()).all()
    np.testing.assert_array_equal(below.freeze().dense(), below.dense())
    pull = jax.grad(lambda leaf: ((leaf.dense() - leaf.w) ** 2).sum())(below)
    assert pull.steps[0, 0] != 0


def test_zeros_are_refused():
    with pytest.raises(jc.UnsupportedInput, match="expected a symmetric format"):
        _latent(_normal(32, 8), (-2,), jc.formats.UINT4)
