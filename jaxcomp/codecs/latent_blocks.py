"""Blocks of 16 pixels that are coded as blocks of 8 where that is cheaper: rows, columns or both.

    split = S whole,    S = T T16',    T: two transforms of 8 samples, interleaved

along each direction that is split. T and T16 are orthonormal, and have coefficients of about the
same frequency at the same place (dct_transform), so S only moves energy between neighbours: what
analysis says of a block, networks and all, is rotated before it is coded and back before synthesis,
and one prior and one synthesis serve every block.
"""

import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jaxtyping import Array, Float, Int32, Num

from jaxcomp.nets.fixed_point import dequantise, is_integer, quantise, saturate, shift_round
from jaxcomp.nets.integer_product import dot

from .dct_transform import CELL_MATRICES
from .latent_prior import LATENT
from .latent_transforms import BLOCK, frequency_order

SPLIT = CELL_MATRICES[1] @ CELL_MATRICES[0].T
# |latents| < 2**15, and a row of 16 with norm 1 sums to at most 4: below 2**30.
SPLIT_BITS = 13
MODES = 4  # rows are split + 2 * columns are split
# What a split must gain, in the bits that `choose` estimates.
BIAS = np.array([0.0, 6.0, 6.0, 6.0], np.float32)


def choose(y: Float[Array, "*batch 768"]) -> Int32[Array, "*batch"]:
    """The mode of least estimated cost for each block, of latents in units of the step.

    Half log2(1 + 12 y**2) is close to rate + distortion / lambda of a coefficient, in bits: it
    tends to the distortion alone for small y, to log2 y + 1.8 for large.
    """
    x = _by_place(stop_gradient(y))
    split = np.float32(SPLIT)
    costs = []
    for mode in range(MODES):
        z = jnp.einsum("st,...tvc->...svc", split, x) if mode & 1 else x
        z = jnp.einsum("st,...utc->...usc", split, z) if mode & 2 else z
        costs.append(0.5 * jnp.log2(1 + 12 * z**2).sum((-3, -2, -1)) + BIAS[mode])
    return jnp.argmin(jnp.stack(costs), 0).astype(jnp.int32)


def split(
    y: Float[Array, "*batch 768"], modes: Int32[Array | np.ndarray, "*batch"]
) -> Float[Array, "*b 768"]:
    """Latents of whole blocks as those of blocks in their modes."""
    return _by_channel(_rotate(_by_place(y), modes, _product(SPLIT)))


def join(
    y: Num[Array, "*batch c"], modes: Int32[Array | np.ndarray, "*batch"]
) -> Num[Array, "*batch 768"]:
    """The inverse of split, on the LATENT grid; channels beyond c are 0.

    Floats give the values of the integers, with the gradient of the rotation.
    """
    x = _by_place(y)
    if is_integer(y):
        return _by_channel(_rotate(x, modes, _integer_product))
    smooth = _rotate(x, modes, _product(SPLIT.T))
    exact = dequantise(_rotate(quantise(x, LATENT), modes, _integer_product), LATENT)
    return _by_channel(smooth + stop_gradient(exact - smooth))


def _product(matrix):
    return lambda x: jnp.einsum("st,...t->...s", np.float32(matrix), x, precision="highest")


def _integer_product(x):
    weights = np.rint(SPLIT * (1 << SPLIT_BITS)).astype(np.int16)
    return saturate(shift_round(dot(x, weights), SPLIT_BITS), LATENT)


def _rotate(x, modes, product):
    for bit, axis in ((1, -3), (2, -2)):
        rotated = jnp.moveaxis(product(jnp.moveaxis(x, axis, -1)), -1, axis)
        x = jnp.where((modes & bit != 0)[..., None, None, None], rotated, x)
    return x


def _by_place(y):
    """[..., c] in order of channels -> [..., 16 rows, 16 columns, 3] by frequency."""
    order = frequency_order()
    y = jnp.pad(y, [(0, 0)] * (y.ndim - 1) + [(0, len(order) - y.shape[-1])])
    return y[..., np.argsort(order)].reshape(*y.shape[:-1], BLOCK, BLOCK, 3)


def _by_channel(x):
    return x.reshape(*x.shape[:-3], -1)[..., frequency_order()]
