"""Each prior beats the one it adds to; groups depend on what is known alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.codecs.latent_codec import Design
from jaxcomp.codecs.latent_plane import lattice
from jaxcomp.codecs.latent_prior import LATENT, SCALES, LatentPrior, restore, scale_of
from tests.codecs.latents import loud_blocks, loud_rows, trained_bits


@pytest.mark.slow  # three trainings, a minute
def test_side_information_beats_none_and_means_beat_scales():
    factorized, hyperprior, mean_scale = (
        trained_bits(design, loud_blocks, steps=2000, rate=1e-3)
        for design in (
            Design("factorized", (16,), 0, 32, means=False),
            Design("hyperprior", (16,), 8, 32, means=False),
            Design("mean_scale", (16,), 8, 32),
        )
    )
    assert hyperprior < 0.9 * factorized
    assert mean_scale < 0.9 * hyperprior


@pytest.mark.slow  # three trainings, a minute
def test_contexts_beat_a_prior_without_them():
    mean_scale, checkerboard, channels = (
        trained_bits(design, loud_rows, steps=1000, rate=2e-3)
        for design in (
            Design("mean_scale", (16,), 8, 32),
            Design("checkerboard", (16,), 8, 32, passes=(2,)),
            Design("channel_conditional", (8, 8), 8, 32),
        )
    )
    assert checkerboard < 0.9 * mean_scale
    assert channels < 0.9 * mean_scale


@pytest.mark.slow  # half a minute of compiling
def test_a_group_depends_on_what_came_before_alone():
    prior = LatentPrior((8, 8), 8, 16, passes=(3,))
    y = loud_rows(0)
    variables = jax.jit(prior.init)(jax.random.key(0), y, jnp.zeros(2, jnp.int32))
    z = prior.apply(variables, y, method="summarise")
    known = prior.apply(variables, z, jnp.full(2, 64), method="begin")
    order = lattice((16, 16), 3)

    def touched(number, here):
        def mean(part):
            shown = jnp.where(order[..., None] < number, part, 0.0)
            group = prior.apply(variables, 0, number, known, shown, z, method="group")
            return group.mean.sum(0)[here].sum()

        gradient = jax.jit(jax.grad(mean))(y[..., :8])[0]
        return {tuple(p) for p in np.argwhere(np.abs(gradient).sum(-1) > 0).tolist()}

    assert touched(0, (4, 6)) == set()
    assert touched(1, (5, 7)) == {(4, 6), (4, 8), (6, 6), (6, 8)}
    # The last knows the four beside it and, of a 3 x 3 kernel, those across are its own colour.
    assert touched(2, (5, 6)) == {(4, 6), (6, 6), (5, 5), (5, 7)}


def test_a_lattice_is_refined_by_half():
    np.testing.assert_array_equal(lattice((3, 4), 1), np.zeros((3, 4)))
    np.testing.assert_array_equal(lattice((2, 4), 2), [[0, 1, 0, 1], [1, 0, 1, 0]])
    np.testing.assert_array_equal(lattice((2, 4), 3), [[0, 2, 0, 2], [2, 1, 2, 1]])


def test_scales_and_latents_stay_on_their_grids():
    rows = np.arange(len(SCALES))
    np.testing.assert_allclose(scale_of(jnp.asarray(rows)), SCALES, rtol=1e-4)
    symbols = jnp.asarray([0, 1, -(2**31), 2**31 - 1], jnp.int32)
    found = restore(symbols, jnp.asarray([5, -7, 0, 0], LATENT.dtype))
    np.testing.assert_array_equal(found, [5, 9, LATENT.low, LATENT.high])
