"""Before any training the transforms are a DCT and its inverse, in floats and in integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from jaxcomp.codecs.dct_transform import VALUE_BITS
from jaxcomp.codecs.latent_prior import LATENT
from jaxcomp.codecs.latent_transforms import (
    PIXEL,
    Analysis,
    Synthesis,
    dct_basis,
    from_planes,
    scale_planes,
    to_planes,
)
from jaxcomp.nets.fixed_point import quantise
from jaxcomp.nets.integer import to_integers

STEP = 24.0


def planes():
    y, x = np.mgrid[0:32, 0:48]
    waves = [60 * np.sin(x / 9 + c) + 50 * np.cos(y / 7 - c) for c in range(3)]
    return jnp.asarray(np.stack(waves, -1), jnp.float32)[None]


def test_the_basis_is_orthonormal_and_that_of_scipy():
    basis = dct_basis(768)
    np.testing.assert_allclose(basis.T @ basis, np.eye(768), atol=1e-5)
    block = np.random.default_rng(0).normal(size=(16, 16, 3))
    ours = np.sort(np.abs(basis.T @ block.ravel()))
    theirs = scipy.fft.dctn(block, axes=(0, 1), norm="ortho")
    np.testing.assert_allclose(ours, np.sort(np.abs(theirs).ravel()), atol=1e-5)
    np.testing.assert_allclose(from_planes(to_planes(planes())), planes(), atol=1e-3)


@pytest.mark.slow  # half a minute of compiling
def test_untrained_transforms_invert_each_other():
    analysis, synthesis = Analysis(512), Synthesis(width=8, blocks=1)
    step = jnp.full(1, STEP)
    latents = analysis.apply(
        jax.jit(analysis.init)(jax.random.key(0), planes(), step), planes(), step
    )
    variables = jax.jit(synthesis.init)(jax.random.key(1), latents)
    back = synthesis.apply(variables, latents)
    assert float(jnp.abs(STEP * back - planes()).max()) < 1.5
    integers = to_integers(synthesis, variables, latents)
    exact = synthesis.apply(integers, quantise(latents, LATENT))
    np.testing.assert_array_equal(
        exact * PIXEL.step, synthesis.apply(variables, quantise(latents, LATENT) * LATENT.step)
    )
    scaled = scale_planes(exact, jnp.int32(16 * STEP)) / (1 << VALUE_BITS)
    np.testing.assert_allclose(scaled, exact * PIXEL.step * STEP, atol=0.07)
