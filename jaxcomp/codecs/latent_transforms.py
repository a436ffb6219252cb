"""Photos to latents at 1/16 resolution and back: a linear transform, and a network after it.

    y = linear(x) / step                                   analysis, floats
    x = step * (linear(y_hat) + network(linear(y_hat)))    synthesis, integers

Both linear parts begin as the DCT of 16 x 16 blocks and learn from there; the network begins at 0.
So training begins at a working codec. step is the quantizer's, per photo: one model serves every
rate. The synthesis is shallow (Yang and Mandt, Computationally-efficient neural image compression
with shallow decoders, ICCV 2023), and runs in integers: its image is the same everywhere. Analysis
has no network beside the linear part, as theirs has: what one learned, by gradients that pass
straight through rounding by rate, made files 2 % larger; latent_refine does what it could not.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxcomp.nets.fixed_point import FixedPoint, add, is_integer, rescale
from jaxcomp.nets.integer import IntegerConv, IntegerDense
from jaxcomp.nets.resample import depth_to_space, space_to_depth

from .dct_transform import COLOUR, VALUE_BITS
from .latent_plane import BLOCK, GRID, Cells, Grid
from .latent_prior import FEATURES, LATENT

PIXEL = FixedPoint(16, 8)  # samples in units of the step: +-127 in 1/256
# An orthonormal basis has weights of 0.06, which steps that suit networks would drown before the
# prior has learned to say what coding them costs: both linear parts learn it times SLOW.
SLOW = 128
SLOW_PIXEL = FixedPoint(16, 1)
# An integer layer has room for weights times the widest input: of many high frequencies, +-128.
LOW, HIGH = 24, FixedPoint(12, 4)
QUARTER = 4  # the synthesis network works at a quarter of the resolution
STEP_BITS = 4  # steps are integers in 1/16
# Where U and V are as likely to be needed as Y: their squared frequencies count that much more.
CHROMA = (1.0, 5.0, 11.0)


def to_planes(samples: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """RGB 0 .. 255 -> Y, U, V around 0, orthonormal."""
    return (samples - 128.0) @ jnp.asarray(COLOUR.T, jnp.float32)


def from_planes(planes: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """The inverse of to_planes, not clipped."""
    return planes @ jnp.asarray(COLOUR, jnp.float32) + 128.0


def frequency_order() -> Int[np.ndarray, " 768"]:
    """Frequencies (row, column, plane) of a 16 x 16 block, flat, from low to high."""
    k = np.arange(BLOCK)
    cost = (k[:, None, None] ** 2 + k[:, None] ** 2) * np.asarray(CHROMA)
    return np.argsort(cost.ravel(), kind="stable")


def dct_basis(channels: int) -> Float[np.ndarray, "768 channels"]:
    """The lowest frequencies of a 16 x 16 block's Y, U and V, ascending, as columns."""
    k = np.arange(BLOCK)
    basis = np.cos(np.pi * (2 * k + 1) * k[:, None] / (2 * BLOCK)) * np.sqrt(2 / BLOCK)
    basis[0] /= np.sqrt(2)
    whole = np.einsum("uy,vx,cd->uvcyxd", basis, basis, np.eye(3)).reshape(3 * BLOCK**2, -1)
    return whole[frequency_order()[:channels]].T.astype(np.float32)


class Analysis(nn.Module):
    """Planes [b, h, w, 3] and steps [b] -> latents f32[b, h / 16, w / 16, channels]."""

    channels: int

    @nn.compact
    def __call__(self, planes: Array, step: Array) -> Array:
        scaled = planes / step[:, None, None, None]
        start = SLOW * dct_basis(self.channels)
        linear = nn.Dense(self.channels, use_bias=False, kernel_init=lambda *_: jnp.asarray(start))
        return linear(space_to_depth(scaled, BLOCK)) / SLOW


class Synthesis(nn.Module):
    """Latents on the LATENT grid -> planes in units of the step, on the PIXEL grid.

    modes: of latent_blocks, where blocks have them.
    """

    width: int = 40
    blocks: int = 3

    @nn.compact
    def __call__(
        self, y: Array, modes: Array | np.ndarray | None = None, plane: Grid | Cells = GRID
    ) -> Array:
        start = SLOW * dct_basis(y.shape[-1]).T
        parts = []
        split = ((slice(0, LOW), LATENT), (slice(LOW, None), HIGH))
        for rows, source in split if len(start) > LOW else split[:1]:
            linear = IntegerDense(
                3 * BLOCK**2,
                source=source,
                target=SLOW_PIXEL,
                weight_bits=16,
                kernel_init=lambda *_, rows=rows: jnp.asarray(start[rows]),
            )
            parts.append(linear(rescale(y[..., rows], LATENT, source)))
        whole = add(*parts, SLOW_PIXEL) if len(parts) > 1 else parts[0]
        planes = depth_to_space(whole, BLOCK)
        planes = planes if is_integer(planes) else planes / SLOW  # integers: the same, on PIXEL
        known = [space_to_depth(planes, QUARTER), _places(planes)]
        if modes is not None:
            known.append(_halves(planes, modes))
        x = jnp.concatenate(known, -1)
        x = IntegerConv(self.width, (1, 1), source=PIXEL, target=FEATURES)(x)
        for _ in range(self.blocks):
            layer = IntegerConv(self.width, (3, 3), source=FEATURES)
            x = add(x, plane.convolve(layer, jnp.maximum(x, 0)), FEATURES)
        last = IntegerConv(
            3 * QUARTER**2,
            (1, 1),
            source=FEATURES,
            target=PIXEL,
            kernel_init=nn.initializers.normal(1e-3),
        )
        return add(planes, depth_to_space(last(jnp.maximum(x, 0)), QUARTER), PIXEL)


def _places(planes):
    """Where each quarter lies in its block, one-hot: blocks have edges, and networks may know."""
    across = BLOCK // QUARTER
    one_hot = np.eye(across**2).reshape(across, across, across**2)
    if is_integer(planes):
        one_hot = one_hot.astype(int) << PIXEL.fraction
    batch, height, width, _ = planes.shape
    tiled = np.tile(one_hot, (height // BLOCK, width // BLOCK, 1)).astype(planes.dtype)
    return jnp.broadcast_to(tiled, (batch, *tiled.shape))


def _halves(planes, modes):
    """Where each quarter lies in a block whose rows or columns are split: it has edges inside."""
    across = BLOCK // QUARTER
    place = np.eye(across, dtype=np.int32)
    rows = jnp.where((modes & 1 != 0)[..., None, None, None], place[:, None], 0)
    columns = jnp.where((modes & 2 != 0)[..., None, None, None], place[None], 0)
    both = jnp.concatenate(jnp.broadcast_arrays(rows, columns), -1)  # [b, h, w, 4, 4, 8]
    both = depth_to_space(both.reshape(*modes.shape, -1), across)
    return (both << PIXEL.fraction if is_integer(planes) else both).astype(planes.dtype)


def scale_planes(planes: Array, step: Array) -> Array:
    """PIXEL integers times a step in 1/16 -> planes in 2**-VALUE_BITS."""
    shift = PIXEL.fraction + STEP_BITS - VALUE_BITS
    # |planes| < 2**15 and steps < 2**13: below 2**28.
    return (planes.astype(jnp.int32) * step + (1 << (shift - 1))) >> shift
