"""Contexts beat a prior without them; groups depend on what is known alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.codecs.latent_codec import Design
from jaxcomp.codecs.latent_prior import LATENT, SCALES, LatentPrior, anchors, restore, scale_of
from tests.codecs.latents import fields, trained_bits


@pytest.mark.slow  # three trainings, two minutes
def test_contexts_beat_a_prior_without_them():
    mean_scale = trained_bits(Design("mean_scale", (16,), 8, 32))
    checkerboard = trained_bits(Design("checkerboard", (16,), 8, 32, two_passes=1))
    channels = trained_bits(Design("channel_conditional", (8, 8), 8, 32))
    assert checkerboard < 0.9 * mean_scale
    assert channels < 0.9 * mean_scale


@pytest.mark.slow  # half a minute of compiling
def test_a_group_depends_on_what_came_before_alone():
    prior = LatentPrior((8, 8), 8, 16, two_passes=1)
    y = fields(0)
    variables = jax.jit(prior.init)(jax.random.key(0), y)
    known = prior.apply(variables, prior.apply(variables, y, method="summarise"), method="begin")
    first = anchors((16, 16))[..., None]

    def mean_of(part):
        shown = jnp.where(first, part, 0.0)
        return prior.apply(variables, 0, known, shown, method="group").mean.sum(0)

    here = (5, 6)  # not an anchor: its neighbours are
    gradient = jax.grad(lambda part: mean_of(part)[here].sum())(y[..., :8])[0]
    touched = np.argwhere(np.abs(gradient).sum(-1) > 0)
    assert len(touched) == 4 and not first[5, 6]
    assert {tuple(p) for p in touched} == {(4, 6), (6, 6), (5, 5), (5, 7)}


def test_scales_and_latents_stay_on_their_grids():
    rows = np.arange(len(SCALES))
    np.testing.assert_allclose(scale_of(jnp.asarray(rows)), SCALES, rtol=1e-4)
    symbols = jnp.asarray([0, 1, -(2**31), 2**31 - 1], jnp.int32)
    found = restore(symbols, jnp.asarray([5, -7, 0, 0], LATENT.dtype))
    np.testing.assert_array_equal(found, [5, 9, LATENT.low, LATENT.high])
