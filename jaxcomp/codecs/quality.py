"""One scale of qualities for all photo codecs: 1 to 100, near JPEG's PSNR at the same number."""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxcomp.base import JaxcompError

# Steps at which the PSNR of the dct codec is near that of Pillow's JPEG at these qualities: fitted
# on training photos up to 60. Above, subsampled chroma limits JPEG on such small photos more than
# on large ones, so the steps fall faster there, towards lossless.
QUALITIES = (1, 5, 10, 18, 25, 40, 60, 80, 90, 95, 100)
STEPS = (400.0, 300.0, 170.0, 113.0, 93.0, 72.0, 57.0, 36.0, 23.0, 15.0, 4.0)
STEP_BITS = 4  # in files, steps are integers in 1/16
MIN_STEP, MAX_STEP = 16, 16 * 400
# lambda / step**2 per coefficient: half of what quantizing finer gains, step**2 / 12 a coefficient
# and a quarter of it for every bit, leaves room for what an encoder drops.
RATE_WEIGHT = 0.058
FILE_BYTES = 64  # what a file holds around a payload: header and tables of sections
RATE_TOLERANCE = 0.015  # how far below a rate target the search stops, relative


def step_of(quality: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """The step of each quality, under any trace."""
    return jnp.exp(jnp.interp(quality, jnp.asarray(QUALITIES, jnp.float32), np.log(STEPS)))


def host_step(quality: float | int) -> int:
    """The step of a quality in 1/16, as files have it."""
    step = math.exp(np.interp(quality, QUALITIES, np.log(STEPS)))
    return int(round(step * (1 << STEP_BITS)))


def find_step(
    bits: Callable[[int], float],
    quality: float | int | None,
    bpp: float | int | None,
    *,
    pixels: int,
    overhead_bits: int,
) -> int:
    """The step in 1/16 of a quality (by default 50), or of a rate: the least that stays below it.

    A rate is that of the whole file. bits(step) says what a step takes, overhead_bits what does not
    depend on it. Raises JaxcompError for both, or for either out of range.
    """
    if bpp is None:
        quality = 50 if quality is None else quality
        if not 1 <= quality <= 100:
            raise JaxcompError(f"quality must be 1 to 100, got {quality}")
        return host_step(quality)
    if quality is not None or not bpp > 0:
        raise JaxcompError(f"pass quality or a positive bpp, got {quality=} and {bpp=}")
    return _search(bits, bpp * pixels - overhead_bits - 8 * FILE_BYTES)


def _search(bits, target):
    """The least step that is found to need at most `target` bits; the largest if none does."""
    low, high = math.log(MIN_STEP), math.log(MAX_STEP)
    guess, slope = math.log(40 << STEP_BITS), -1.1  # d log(bits) / d log(step), nearly constant
    last = None
    for _ in range(8):
        step = int(round(math.exp(guess)))
        excess = math.log(bits(step)) - math.log(max(target, 1))
        low, high = (low, math.log(step)) if excess <= 0 else (math.log(step), high)
        if -RATE_TOLERANCE <= excess <= 0 or math.exp(high) - math.exp(low) <= 1:
            break
        if last is not None and guess != last[0]:
            slope = min(max((excess - last[1]) / (guess - last[0]), -3.0), -0.5)
        last = guess, excess
        guess = min(max(guess - (excess + RATE_TOLERANCE / 2) / slope, low), high)
    return int(round(math.exp(high)))
