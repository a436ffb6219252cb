"""Block transforms: orthonormal in every mode, and the cheapest mode is the one chosen."""

import jax.numpy as jnp
import numpy as np

from jaxcomp.codecs import dct_transform as transform


def test_every_matrix_is_orthonormal():
    for matrix in (transform.COLOUR, *transform.CELL_MATRICES, transform.SUPERBLOCK_MATRIX):
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-12)


def test_every_mode_keeps_the_energy_and_puts_the_mean_first():
    rng = np.random.default_rng(0)
    planes = jnp.asarray(rng.normal(size=(2, 3, 32, 32)), jnp.float32)
    for coefficients in transform.forward(planes):
        np.testing.assert_allclose((coefficients**2).sum(), (planes**2).sum(), rtol=1e-5)
    flat = transform.forward(jnp.full((1, 3, 32, 32), 2.0))
    np.testing.assert_allclose(flat[..., 0, 0], 32.0, rtol=1e-5)


def test_smooth_blocks_are_large_and_busy_ones_small():
    y, x = np.mgrid[0:32, 0:32]
    smooth = np.cos(np.pi * 3 * (2 * x + 1) / 64) * 90
    corner = np.where((y < 8) & (x < 8), 150.0, 0.0)
    planes = np.zeros((2, 3, 32, 32), np.float32)
    planes[0, 0], planes[1, 0] = smooth, corner
    coefficients = transform.forward(jnp.asarray(planes))
    modes = transform.choose_modes(coefficients, jnp.float32(20.0), jnp.zeros(5))
    assert (modes[0] == 0).all() and modes[1, 0] == transform.MODES - 1
    chosen = transform.select(coefficients, modes)
    np.testing.assert_array_equal(chosen[0], coefficients[0, 0])
    np.testing.assert_array_equal(chosen[1, 0], coefficients[4, 1, 0])
