"""PSNR against its definition in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.base import UnsupportedInput
from jaxcomp.measures import psnr_db
from tests.checks import check_measure


def _noisy_pair(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, shape, dtype=np.uint8)
    noise = generator.normal(0, 7, shape).round()
    return x, np.clip(x + noise, 0, 255).astype(np.uint8)


def test_is_the_definition_on_8_bit_images():
    x, y = _noisy_pair((512, 768, 3))
    expected = 10 * np.log10(255.0**2 / np.mean((x.astype(np.float64) - y) ** 2))
    np.testing.assert_allclose(psnr_db(x, y), expected, atol=1e-4)
    assert psnr_db(x, y) == psnr_db(y, x)


def test_known_values_and_peak():
    x = np.zeros((4, 4), np.uint8)
    np.testing.assert_allclose(psnr_db(x, x + 1), 48.1308, atol=1e-4)  # 20 log10 255
    np.testing.assert_allclose(psnr_db(x / 1.0, x + 0.1, peak=1.0), 20.0, atol=1e-4)
    assert psnr_db(x, x) == jnp.inf


def test_large_images_do_not_lose_error_to_rounding():
    # 2**25 squared errors of 1: one float32 sum would stop at 2**24 and report 3 dB too much.
    x = jnp.zeros((4096, 8192), jnp.uint8)
    np.testing.assert_allclose(psnr_db(x, x + 1), 48.1308, atol=1e-4)


def test_measures_under_jit_and_has_a_gradient():
    x, y = _noisy_pair((16, 16, 3))
    check_measure(psnr_db, x, y)
    gradient = jax.grad(lambda z: psnr_db(x / 1.0, z))(jnp.asarray(y, jnp.float32))
    assert psnr_db(x / 1.0, y + gradient) > psnr_db(x, y)


def test_shapes_must_agree_rather_than_broadcast():
    with pytest.raises(UnsupportedInput, match=r"\(4, 4, 3\) and \(4, 4, 1\)"):
        psnr_db(np.zeros((4, 4, 3)), np.zeros((4, 4, 1)))
