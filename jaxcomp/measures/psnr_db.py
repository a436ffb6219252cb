"""Peak signal-to-noise ratio: 10 log10(peak^2 / mean squared error), in dB.

The mean runs over every element, colour channels included (the "RGB PSNR" of image compression
tables). Averages over a data set are the caller's: the mean of dB values over images is usual.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

from jaxcomp.base import UnsupportedInput


def psnr_db(
    x: Num[ArrayLike, "..."], y: Num[ArrayLike, "..."], *, peak: float = 255.0
) -> Float[Array, ""]:
    """PSNR of y against x, two arrays of one shape; infinite where they are equal.

    peak: the largest value a sample can take, 255 for 8-bit samples, 1 for unit-range floats.
    Computed in float32; works under jit, vmap and grad.
    """
    if jnp.shape(x) != jnp.shape(y):
        raise UnsupportedInput(
            f"psnr_db compares arrays of one shape, got {jnp.shape(x)} and {jnp.shape(y)}; "
            "crop or reshape one of them"
        )
    error = jnp.square(jnp.asarray(x, jnp.float32) - jnp.asarray(y, jnp.float32))
    # Axis by axis: one float32 running sum over a large photo would stop growing at 2**24.
    while error.ndim:
        error = error.mean(axis=-1)
    return 10 * jnp.log10(peak**2 / error)
