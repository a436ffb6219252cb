"""How probable the latents of an image are: one network of integers behind five codecs.

    y_hat = mean + round(y - mean),    round(y - mean) ~ N(0, scale**2) per element

Means and scales come from what a decoder already has: side information z (a hyperprior), slices of
channels decoded before (channel conditioning), and one colour of a checkerboard of positions in the
same slice (two passes instead of one per position). Whatever decides an integer is computed by
nets.integer, so encoder and decoder agree on every device. Balle et al. 2018 (scale hyperprior);
Minnen, Balle and Toderici 2018 (means); Minnen and Singh 2020 (channels, mixed rounding in
training); He et al. 2021 (checkerboard).
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxcomp import entropy
from jaxcomp.nets.fixed_point import FixedPoint, add, is_integer, rescale, saturate
from jaxcomp.nets.integer import IntegerConv
from jaxcomp.nets.resample import depth_to_space

LATENT = FixedPoint(16, 4)  # latents and means: +-2039 in 1/16
CONTEXT = FixedPoint(8, 1)  # latents as networks see them: +-64 in 1/2
WIDE = FixedPoint(16, 2)  # those of slice 0: the lowest frequencies are hundreds of steps
SIDE = FixedPoint(8, 0)  # side information, integers
STREAM = FixedPoint(16, 6)  # what is known so far, a sum over slices
FEATURES = FixedPoint(8, 4)
ROW = FixedPoint(8, 0)  # the row of the scale table
# A network's last layer: means are 4 and rows 16 times its outputs, so that both learn as fast.
OUTPUT = FixedPoint(16, 6)
WIDE_ROW = FixedPoint(16, 2)
FIRST_ROW = 32 / 16
SCALES = entropy.scale_table(0.08, 64.0, 64)
LOG_RATIO = float(np.log(SCALES[-1] / SCALES[0]) / (len(SCALES) - 1))
# Side information has a quarter of the latents' resolution.
SIDE_STRIDE = 4


class Group(NamedTuple):
    """What one pass over one slice decides: floats on their grids, or integers."""

    mean: Array  # LATENT [b, h, w, n]
    row: Array  # ROW, 0 .. len(SCALES) - 1


class LatentPrior(nn.Module):
    """Means and scales of latents [b, h, w, sum(slices)].

    slices        channels of each slice, coded one after the other
    side          channels of z
    width         of the features and hidden layers
    means         whether means are predicted; else they are 0
    two_passes    how many slices, from the first, are coded in two passes
    """

    slices: tuple[int, ...]
    side: int = 64
    width: int = 128
    means: bool = True
    two_passes: int = 0

    def setup(self) -> None:
        n = self.width
        self.squeeze = [
            nn.Conv(n, (3, 3)),
            nn.Conv(n, (5, 5), strides=2),
            nn.Conv(self.side, (5, 5), strides=2),
        ]
        self.expand = [
            # Side information is 0 at first: a bias keeps the rectifier open, and z learning.
            IntegerConv(
                4 * n // 2,
                (3, 3),
                source=SIDE,
                target=FEATURES,
                relu=True,
                bias_init=nn.initializers.constant(0.5),
            ),
            IntegerConv(4 * n, (3, 3), source=FEATURES, target=STREAM),
        ]
        self.learn = [
            IntegerConv(n, (3, 3), source=_context(k), target=STREAM)
            for k in range(len(self.slices) - 1)
        ]
        self.beside = [
            IntegerConv(n, (3, 3), source=_context(k), target=STREAM)
            for k in range(self.two_passes)
        ]
        # Low frequencies are predicted straight from what is known, without a narrow layer.
        self.straight = IntegerConv(
            self.slices[0],
            (1, 1),
            source=STREAM,
            target=LATENT,
            kernel_init=nn.initializers.normal(0.02),
        )
        self.hidden = [IntegerConv(n, (1, 1), source=FEATURES, relu=True) for _ in self.slices]
        outputs = 1 + self.means
        self.last = [
            IntegerConv(
                outputs * c,
                (1, 1),
                source=FEATURES,
                target=OUTPUT,
                kernel_init=nn.initializers.normal(0.01),
                bias_init=functools.partial(_first_bias, c),
            )
            for c in self.slices
        ]

    def __call__(self, y: Array) -> Array:
        """Every layer once, for init and to_integers."""
        z = self.summarise(y)
        known, start = self.begin(z), 0
        for k, size in enumerate(self.slices):
            part = y[..., start : start + size]
            self.group(k, known, part)
            known, start = self.go_on(k, known, part), start + size
        return known

    def summarise(self, y: Array) -> Array:
        """Side information f32[b, h / 4, w / 4, side] of latents, not yet rounded."""
        x = jnp.arcsinh(y)
        for layer in self.squeeze[:-1]:
            x = nn.relu(layer(x))
        return self.squeeze[-1](x)

    def begin(self, z: Array) -> Array:
        """What the side information tells: STREAM [b, h, w, width]."""
        x = depth_to_space(self.expand[0](z), 2)
        return depth_to_space(self.expand[1](x), 2)

    def go_on(self, k: int, known: Array, part: Array) -> Array:
        """What is known after slice k, whose latents are `part`."""
        if k == len(self.slices) - 1:
            return known
        return add(known, self.learn[k](rescale(part, LATENT, _context(k))), STREAM)

    def group(self, k: int, known: Array, anchors: Array | None) -> Group:
        """The parameters of slice k; anchors: its latents that are known, others 0, if any."""
        if anchors is not None and k < self.two_passes:
            known = add(known, self.beside[k](rescale(anchors, LATENT, _context(k))), STREAM)
        hidden = jnp.maximum(rescale(known, STREAM, FEATURES), 0)
        out = self.last[k](self.hidden[k](hidden))
        mean, row = jnp.split(out, 2, -1) if self.means else (jnp.zeros_like(out), out)
        if not is_integer(out):  # integers are what they are, in larger units
            mean, row = 4 * mean, 16 * row
        if self.means and k == 0:
            mean = add(mean, self.straight(known), LATENT)
        row = rescale(row, WIDE_ROW, ROW)
        if is_integer(row):
            return Group(mean, jnp.clip(row, 0, len(SCALES) - 1))
        row = entropy.lower_bound(entropy.upper_bound(row, len(SCALES) - 1.0), 0.0)
        return Group(mean, row)


def _context(k):
    return CONTEXT if k else WIDE


def _first_bias(channels, key, shape, dtype=jnp.float32):
    """Means of 0, scales of the table's middle."""
    return jnp.zeros(shape, dtype).at[-channels:].set(FIRST_ROW)


def scale_of(row: Array) -> Array:
    """The scale of a row, continuous in it."""
    return SCALES[0] * jnp.exp(LOG_RATIO * row)


def anchors(shape: tuple[int, int]) -> np.ndarray:
    """bool[h, w]: the colour of the checkerboard that is coded first."""
    return np.add.outer(np.arange(shape[0]), np.arange(shape[1])) % 2 == 0


def restore(symbols: Array, mean: Array) -> Array:
    """LATENT integers of decoded symbols: saturated, so that no symbol leaves the grid."""
    limit = 1 << 12
    whole = jnp.clip(symbols, -limit, limit) << LATENT.fraction
    return saturate(whole + mean.astype(jnp.int32), LATENT)
