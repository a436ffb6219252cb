"""MS-SSIM against scikit-image's SSIM, put together scale by scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data
from skimage.metrics import structural_similarity

from jaxcomp.base import UnsupportedInput
from jaxcomp.measures import ms_ssim
from tests.checks import check_measure


def _oracle(x: np.ndarray, y: np.ndarray) -> float:
    """Equation 7 of Wang 2003 for one channel, in float64, with every map from scikit-image."""
    options = dict(
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255.0, K2=0.03
    )
    product = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        # A huge K1 turns the luminance factor into 1: what is left is contrast times structure.
        similarity = structural_similarity(x, y, K1=0.01 if scale == 4 else 1e6, **options)
        product *= max(similarity, 0.0) ** weight
        x, y = (np.pad(z, [(0, n % 2) for n in z.shape], mode="edge") for z in (x, y))
        x, y = (z.reshape(z.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3)) for z in (x, y))
    return product


def _photo(h: int, w: int) -> np.ndarray:
    return data.astronaut()[:h, :w]


# The smallest square; odd halves at every scale and more than one block of the blur.
@pytest.mark.parametrize(
    ("shape", "noise"), [((161, 161), 2.0), ((161, 161), 40.0), ((303, 177), 9.0)]
)
def test_equals_scikit_image_per_scale(shape, noise):
    x = _photo(*shape)
    y = np.clip(x + np.random.default_rng(1).normal(0, noise, x.shape), 0, 255).round()
    expected = np.mean([_oracle(x[..., c] / 1.0, y[..., c]) for c in range(3)])
    np.testing.assert_allclose(ms_ssim(x, y.astype(np.uint8)), expected, atol=2e-5)


def test_brightness_counts_at_the_last_scale_only_and_grey_has_no_channels():
    x = _photo(161, 161)[..., 1] // 2
    np.testing.assert_allclose(ms_ssim(x, x + 60), _oracle(x / 1.0, x + 60.0), atol=2e-5)


def test_equal_images_reach_one_and_opposite_images_zero():
    x = _photo(161, 161)
    np.testing.assert_allclose(ms_ssim(x, x), 1.0, atol=1e-6)
    np.testing.assert_allclose(ms_ssim(x / 255.0, x / 255.0, peak=1.0), 1.0, atol=1e-6)
    assert ms_ssim(x, 255 - x) == 0.0


def test_measures_under_jit_and_has_a_finite_gradient_everywhere():
    x = _photo(161, 161)[..., 0]
    check_measure(ms_ssim, x, x // 2)
    gradient = jax.grad(lambda z: ms_ssim(x, z))(jnp.asarray(255 - x, jnp.float32))
    assert np.isfinite(gradient).all()


def test_refuses_what_it_cannot_measure():
    with pytest.raises(UnsupportedInput, match="at least 161 pixels"):
        ms_ssim(np.zeros((160, 500, 3)), np.zeros((160, 500, 3)))
    with pytest.raises(UnsupportedInput, match="one shape"):
        ms_ssim(np.zeros((170, 170, 3)), np.zeros((170, 170, 1)))
    with pytest.raises(UnsupportedInput, match="takes"):
        ms_ssim(np.zeros((2, 170, 170, 3)), np.zeros((2, 170, 170, 3)))
