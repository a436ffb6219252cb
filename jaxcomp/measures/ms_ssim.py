"""Multi-scale structural similarity.

    MS-SSIM = l_5^w5 * prod_{j=1..5} cs_j^wj       l: luminance, cs: contrast times structure

Wang, Simoncelli, Bovik, "Multiscale structural similarity for image quality assessment",
Asilomar 2003, equation 7, with the five weights of its section 3.2. Each l_j and cs_j is a mean
over every position where an 11 x 11 Gaussian window (sigma 1.5) lies inside the image ("valid").
Between scales the image is averaged over 2 x 2 blocks, and an odd last row or column is
repeated first. Channels are measured one by one and averaged at the end. A negative mean cs_j
counts as zero, since its fractional power is not real. These are the choices of
tf.image.ssim_multiscale, so the numbers compare with those of the learned-compression literature.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

from jaxcomp.base import UnsupportedInput

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang 2003, fitted to human judgements
WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03  # stabilise the ratios in flat dark regions: Wang 2004, section III.B
BLOCK = 128  # blur as products with 128 x 128 matrices: measured 4x faster than 11 shifted sums
SMALLEST_SIDE = (WINDOW - 1) * 2 ** (len(WEIGHTS) - 1) + 1  # 161: the window still fits scale 5


def ms_ssim(
    x: Num[ArrayLike, "..."], y: Num[ArrayLike, "..."], *, peak: float = 255.0
) -> Float[Array, ""]:
    """MS-SSIM of two images [h, w] or [h, w, channels], at most 1, which equal images reach.

    peak: the largest value a sample can take. Raises UnsupportedInput where the shapes differ or a
    side is shorter than 161. Computed in float32; works under jit and grad.
    """
    shape = jnp.shape(x)
    if shape != jnp.shape(y):
        raise UnsupportedInput(
            f"ms_ssim compares images of one shape, got {shape} and {jnp.shape(y)}; "
            "crop or reshape one of them"
        )
    if len(shape) not in (2, 3):
        raise UnsupportedInput(f"ms_ssim takes [h, w] or [h, w, channels], got shape {shape}")
    if min(shape[:2]) < SMALLEST_SIDE:
        raise UnsupportedInput(
            f"ms_ssim needs sides of at least {SMALLEST_SIDE} pixels for five scales, got "
            f"{shape[0]} x {shape[1]}; use psnr_db for images this small"
        )
    return _ms_ssim(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), peak)


@jax.jit
def _ms_ssim(
    x: Float[Array, "h w *c"], y: Float[Array, "h w *c"], peak: float | Float[Array, ""]
) -> Float[Array, ""]:
    # Variances do not change under a shift; centred samples lose four times less to cancellation.
    x, y = x - peak / 2, y - peak / 2
    product = 1.0
    for scale, weight in enumerate(WEIGHTS):
        luminance, contrast = _similarity(x, y, peak)
        last = scale == len(WEIGHTS) - 1
        factor = luminance * contrast if last else contrast
        product *= _power(factor.mean(axis=(0, 1)), weight)  # [] or [channels]
        if not last:
            x, y = _halve(x), _halve(y)
    return jnp.mean(product)


def _similarity(
    x: Float[Array, "h w *c"], y: Float[Array, "h w *c"], peak: float | Float[Array, ""]
) -> tuple[Float[Array, "hv wv *c"], Float[Array, "hv wv *c"]]:
    """Luminance and contrast-structure maps of two images centred on peak / 2."""
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    mean_x, mean_y = _blur(x), _blur(y)
    variance = _blur(x * x + y * y) - mean_x**2 - mean_y**2  # of x plus of y
    covariance = _blur(x * y) - mean_x * mean_y
    mean_x, mean_y = mean_x + peak / 2, mean_y + peak / 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * covariance + c2) / (variance + c2)


def _blur(x: Float[Array, "h w *c"]) -> Float[Array, "hv wv *c"]:
    """Gaussian means at the positions where the window fits: sides shrink by WINDOW - 1."""
    taps = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2)
    distance = np.arange(BLOCK + WINDOW - 1) - np.arange(BLOCK)[:, None]
    inside = (distance >= 0) & (distance < WINDOW)
    band = np.where(inside, (taps / taps.sum())[distance.clip(0, WINDOW - 1)], 0)
    for axis in (0, 1):
        x = jnp.moveaxis(x, axis, 0)
        valid = x.shape[0] - WINDOW + 1
        blocks = -(-valid // BLOCK)
        padding = [(0, (blocks + 1) * BLOCK - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
        block = jnp.pad(x, padding).reshape(blocks + 1, BLOCK, -1)
        block = jnp.concatenate([block[:-1], block[1:, : WINDOW - 1]], axis=1)  # what a band sees
        # "highest": accelerators multiply float32 in fewer bits unless told.
        means = jnp.einsum("ij,kjn->kin", band.astype(np.float32), block, precision="highest")
        means = means.reshape(blocks * BLOCK, *x.shape[1:])[:valid]
        x = jnp.moveaxis(means, 0, axis)
    return x


def _halve(x: Float[Array, "h w *c"]) -> Float[Array, "h2 w2 *c"]:
    """Mean over 2 x 2 blocks; an odd last row or column is repeated."""
    h, w = x.shape[:2]
    x = jnp.pad(x, [(0, h % 2), (0, w % 2)] + [(0, 0)] * (x.ndim - 2), mode="edge")
    return (x[0::2, 0::2] + x[1::2, 0::2] + x[0::2, 1::2] + x[1::2, 1::2]) / 4


def _power(base: Float[Array, "*c"], exponent: float) -> Float[Array, "*c"]:
    """max(base, 0) ** exponent with a gradient of zero, not NaN, where base <= 0."""
    positive = base > 0
    return jnp.where(positive, jnp.where(positive, base, 1.0) ** exponent, 0.0)
