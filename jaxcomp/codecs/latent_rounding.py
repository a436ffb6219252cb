"""Which integer a latent becomes: the nearest, or one less where that saves enough bits.

    minimise  error**2 + weight * bits

The bits are those of the Gaussian that the prior predicts. Between n - 1 and n the choice is a
threshold on the fraction, 1/2 + weight / 2 * (bits(n) - bits(n - 1)), and for a Gaussian that
difference grows linearly with n: two numbers per row of the scale table decide. Training and
encoding round alike, so the prior learns what is really coded.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from .latent_prior import SCALES

MOST_BITS = 16.0  # no symbol of a table costs more
# Latents of these scales are not coded, and are their means: they would be 0 but once in a few
# thousand times, and saying so costs more than it is worth.
SILENT_ROWS = 4


def _costs():
    """What 1 costs more than 0, and how much more each further one does, in bits, by row."""

    def mass(scale, n):
        low, high = (math.erf((n + side) / scale / math.sqrt(2)) for side in (-0.5, 0.5))
        return max((high - low) / 2, 2.0**-MOST_BITS)

    bits = np.array([[-math.log2(mass(float(scale), n)) for n in range(3)] for scale in SCALES])
    first = bits[:, 1] - bits[:, 0]
    return first.astype(np.float32), np.maximum(bits[:, 2] - bits[:, 1] - first, 0).astype("f4")


FIRST, GROWTH = _costs()


def decide(
    x: Float[Array, "*shape"], row: Array, weight: Float[Array, "..."] | float
) -> Float[Array, "*shape"]:
    """The integers of x, latents less their means, as floats; row: of the scale table, any dtype.

    weight: bits to squared error, in units in which the integers are one apart.
    """
    row = jnp.round(row).astype(jnp.int32)
    size = lax.stop_gradient(jnp.abs(x))
    whole = jnp.floor(size)
    more = jnp.minimum(jnp.asarray(FIRST)[row] + whole * jnp.asarray(GROWTH)[row], MOST_BITS)
    found = whole + (size - whole >= 0.5 + 0.5 * weight * more)
    return jnp.sign(x) * found
