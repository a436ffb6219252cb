"""Blocks in their modes: the transforms they claim to be, exact in integers, chosen well."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.fft import dctn

from jaxcomp.codecs import latent_blocks as blocks
from jaxcomp.codecs.latent_prior import LATENT
from jaxcomp.codecs.latent_transforms import dct_basis, frequency_order
from jaxcomp.nets.fixed_point import dequantise, quantise
from jaxcomp.nets.resample import space_to_depth

RNG = np.random.default_rng(0)
SPLIT, JOIN = jax.jit(blocks.split), jax.jit(blocks.join)
PLANES = RNG.normal(0, 20, (1, 32, 48, 3)).astype(np.float32)


def whole(planes):
    return space_to_depth(jnp.asarray(planes), 16) @ dct_basis(768)


def test_split_blocks_are_dcts_of_8_samples():
    y = whole(PLANES)
    order = np.argsort(frequency_order())
    for mode, (rows, columns) in enumerate(((16, 16), (8, 16), (16, 8), (8, 8))):
        modes = jnp.full((1, 2, 3), mode)
        found = np.asarray(SPLIT(y, modes))[0, 1, 2][order].reshape(16, 16, 3)
        block, parts = PLANES[0, 16:, 32:, 0], []
        for top in range(0, 16, rows):
            for left in range(0, 16, columns):
                part = block[top : top + rows, left : left + columns]
                parts.append(dctn(part, norm="ortho"))
        # Frequencies 2 u and 2 u + 1 of a split direction are both blocks' frequency u, for u = 0
        # their sum and difference: the energies are the same.
        shape = rows, 16 // rows, columns, 16 // columns
        energies = (found[..., 0] ** 2).reshape(shape).sum((1, 3))
        np.testing.assert_allclose(energies, sum(p**2 for p in parts), rtol=2e-3, atol=1e-2)


def test_joining_inverts_splitting_and_integers_agree_with_floats():
    y = whole(PLANES)
    modes = jnp.asarray(RNG.integers(0, 4, (1, 2, 3)))
    latents = quantise(SPLIT(y, modes), LATENT)
    joined = JOIN(latents, modes)
    assert joined.dtype == LATENT.dtype
    # A rounding to 1/16 in each direction, and that of the latents.
    assert float(jnp.abs(dequantise(joined, LATENT) - y).max()) < 0.25
    floats = JOIN(dequantise(latents, LATENT), modes)
    np.testing.assert_array_equal(floats, dequantise(joined, LATENT))
    narrow = JOIN(latents[..., :100], modes)
    padded = jnp.pad(latents[..., :100], [(0, 0)] * 3 + [(0, 668)])
    np.testing.assert_array_equal(narrow, JOIN(padded, modes))
    # The gradient of a rotation is its inverse.
    pull = jax.jit(lambda x, y: jax.vjp(lambda x: blocks.join(x, modes), x)[1](y)[0])
    back = pull(dequantise(latents, LATENT), y)
    np.testing.assert_allclose(back, SPLIT(y, modes), rtol=1e-3, atol=1e-2)


def test_edges_are_split_and_waves_are_not():
    y, x = np.mgrid[0:16, 0:16]
    wave = 60 * np.cos(np.pi * (2 * x + 1) * 3 / 32) + 60 * np.cos(np.pi * (2 * y + 1) * 5 / 32)
    corner = 10.0 * RNG.normal(size=(16, 16)) * ((y >= 8) & (x >= 8))
    below = 20.0 * RNG.normal(size=(16, 1)) * (y >= 8) * np.cos(np.pi * (2 * x + 1) * 3 / 32)
    planes = np.zeros((1, 16, 48, 3), np.float32)
    for k, block in enumerate((wave, corner, below)):
        planes[0, :, 16 * k : 16 * k + 16, 0] = block
    np.testing.assert_array_equal(blocks.choose(whole(planes) / 4)[0, 0], [0, 3, 1])
