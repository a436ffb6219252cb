"""How probable the latents of an image are: one network of integers behind five codecs.

    y_hat = mean + round(y - mean),    round(y - mean) ~ N(0, scale**2) per element

Means and scales come from what a decoder already has: the quantizer's step, side information z (a
hyperprior), slices of channels decoded before (channel conditioning), and positions of the same
slice decoded before (a few passes over a lattice instead of one per position). Whatever decides an
integer is computed by nets.integer, so encoder and decoder agree on every device. Networks see
logarithms of latents, with and without their sign: sizes predict sizes, and log scales are what is
to be found.

Balle et al. 2018 (scale hyperprior); Minnen, Balle and Toderici 2018 (means); Minnen and Singh 2020
(channels, mixed rounding in training); He et al. 2021 (checkerboard).
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

from jaxcomp import entropy
from jaxcomp.nets.fixed_point import FixedPoint, add, is_integer, rescale, saturate
from jaxcomp.nets.integer import IntegerConv
from jaxcomp.nets.logarithm import log2_whole, signed_logarithms
from jaxcomp.nets.resample import depth_to_space, repeated

from .latent_plane import GRID, SIDE_STRIDE, Cells, Grid

LATENT = FixedPoint(16, 4)  # latents and means: +-2039 in 1/16
WIDE = FixedPoint(16, 2)  # means of blocks as they are: hundreds of steps
SIDE = FixedPoint(8, 0)  # side information, integers
STREAM = FixedPoint(16, 6)  # what is known so far, a sum over slices
FEATURES = FixedPoint(8, 4)
ROW = FixedPoint(8, 0)  # the row of the scale table
# A network's last layer: means are 4 and rows 16 times its outputs, so that both learn as fast.
OUTPUT = FixedPoint(16, 6)
WIDE_ROW = FixedPoint(16, 2)
SCALES = entropy.scale_table(0.08, 64.0, 64)
# Below this row (a scale of 0.29) means are 0: most latents of an image are nearly always 0, and an
# inexact mean for each of them would add up to more error than means save bits.
FIRST_MEAN = 12
LOG_RATIO = float(np.log(SCALES[-1] / SCALES[0]) / (len(SCALES) - 1))
SUMMARISED = 128  # of this many lowest frequencies
COARSE = 4  # the first of them, averaged over 4 x 4 blocks, in this many steps
RESEMBLING = 24  # of the first slice, this many lowest frequencies resemble their neighbours
SIGNED = 5  # signs of slices after these say next to nothing about others
LEVEL_BITS = 4  # levels are octaves of the step in 1/16
OCTAVES = 10  # from step 1 to 400, and one to interpolate to

Plane = Grid | Cells
_zeros = nn.initializers.zeros


class Group(NamedTuple):
    """What one pass over one slice decides: floats on their grids, or integers."""

    mean: Array  # LATENT [b, h, w, n]
    row: Array  # ROW, 0 .. len(SCALES) - 1


def level_of(step: Int32[Array | np.ndarray, "*b"] | np.int32) -> Int32[Array, "*b"]:
    """log2 of a step (in 1/16, at least 1), in 1/16 octaves: the same integers everywhere."""
    return log2_whole(step, LEVEL_BITS) - (4 << LEVEL_BITS)


def octaves(level: Int32[Array, " b"]) -> Int32[Array, "b 1 1 octaves"]:
    """How near a level is to each octave: two neighbours share 16."""
    distance = jnp.abs(level[:, None] - (np.arange(OCTAVES) << LEVEL_BITS))
    return jnp.maximum((1 << LEVEL_BITS) - distance, 0)[:, None, None]


class Known(NamedTuple):
    """What a decoder knows before a slice."""

    features: Array  # STREAM [b, h, w, width], of all slices before
    sizes: Array  # FEATURES [b, h, w, n], logarithms of magnitudes of the last one


class LatentPrior(nn.Module):
    """Means and scales of latents [b, h, w, sum(slices)].

    slices        channels of each slice, coded one after the other
    side          channels of z; 0 for no side information: scales follow from channel and step
    width         of the features and hidden layers
    means         whether means are predicted; else they are 0
    passes        over the positions of each slice, from the first; 1 where none is given
    split         whether blocks have modes (latent_blocks)
    """

    slices: tuple[int, ...]
    side: int = 64
    width: int = 96
    means: bool = True
    passes: tuple[int, ...] = ()
    split: bool = False
    direct: bool = False

    def passes_of(self, k: int) -> int:
        """Passes over slice k."""
        return self.passes[k] if k < len(self.passes) else 1

    def setup(self) -> None:
        n = self.width
        if self.side:
            self._set_up_side(n)
        self.at_step = IntegerConv(n, (1, 1), source=FEATURES, target=STREAM)
        if self.split:
            self.at_modes = IntegerConv(n, source=FEATURES, target=STREAM, kernel_init=_zeros)
        self.learn = [IntegerConv(n, target=STREAM) for _ in self.slices[:-1]]
        self.beside = [
            [IntegerConv(n, target=STREAM) for _ in range(self.passes_of(k) - 1)]
            for k in range(len(self.slices))
        ]
        self.hidden = [IntegerConv(n, (1, 1), relu=True) for _ in self.slices]
        # Features are few for many channels: what they leave out of the slice before, sizes tell.
        if self.direct:
            self.straight = [
                IntegerConv(c, (1, 1), target=OUTPUT, kernel_init=_zeros) for c in self.slices[1:]
            ]
        outputs = 1 + self.means
        self.last = [
            IntegerConv(
                outputs * c,
                (1, 1),
                target=OUTPUT,
                kernel_init=functools.partial(_first_kernel, c),
                bias_init=functools.partial(_first_bias, start, c),
            )
            for start, c in zip(np.cumsum((0, *self.slices)), self.slices, strict=False)
        ]

    def _set_up_side(self, n: int) -> None:
        self.squeeze = [
            nn.Conv(n, (3, 3)),
            nn.Conv(n, (5, 5), strides=2),
            nn.Conv(self.side, (5, 5), strides=2),
        ]
        # Side information begins as the averages of the lowest frequencies, and may learn more.
        means = min(3, self.side, self.slices[0]) * self.means
        average = functools.partial(_diagonal, means, 1 / (COARSE * SIDE_STRIDE**2))
        self.coarse = nn.Conv(
            self.side, (4, 4), strides=SIDE_STRIDE, use_bias=False, kernel_init=average
        )
        self.expand = [
            IntegerConv(
                2 * n,
                source=SIDE,
                target=FEATURES,
                relu=True,
                # A bias keeps the rectifier open, and z learning.
                bias_init=nn.initializers.constant(0.5),
            ),
            IntegerConv(4 * n, (3, 3), source=FEATURES, target=STREAM),
        ]
        if self.means:
            # Means of the first slice straight from what they resemble, without a narrow layer:
            # averages in z at first, and averages of known neighbours after that.
            first = functools.partial(_diagonal, means, COARSE)
            starts = [repeated(first, SIDE_STRIDE**2)] + [_zeros] * 2
            low = min(self.slices[0], RESEMBLING)
            self.spread = [
                IntegerConv(low * SIDE_STRIDE**2, source=SIDE, target=LATENT, kernel_init=start)
                for start in starts[: self.passes_of(0)]
            ]
            self.between = [
                IntegerConv(
                    low,
                    (3, 3),
                    source=WIDE,
                    target=LATENT,
                    kernel_init=functools.partial(_neighbours, means, across),
                )
                for across in (True, False)[3 - self.passes_of(0) :]
            ]

    def __call__(self, y: Array, level: Array, modes: Array | np.ndarray | None = None) -> Known:
        """Every layer once, for init and to_integers."""
        z = self.summarise(y)
        known, start = self.begin(z, level, modes), 0
        for k, size in enumerate(self.slices):
            part = y[..., start : start + size]
            for number in range(self.passes_of(k)):
                self.group(k, number, known, part, z)
            known, start = self.go_on(k, known, part), start + size
        return known

    def summarise(self, y: Array, plane: Plane = GRID) -> Array:
        """Side information f32[b, h / 4, w / 4, side] of latents, not yet rounded."""
        if not self.side:
            return y[:, ::SIDE_STRIDE, ::SIDE_STRIDE, :0]
        x = jnp.arcsinh(y[..., :SUMMARISED])
        for layer in self.squeeze[:-1]:
            x = nn.relu(plane.convolve(layer, x))
        lowest = y[..., : min(3, self.slices[0])]
        return plane.convolve(self.squeeze[-1], x) + plane.convolve(self.coarse, lowest)

    def begin(
        self,
        z: Array,
        level: Int32[Array, " b"],
        modes: Array | np.ndarray | None = None,
        plane: Plane = GRID,
    ) -> Known:
        """What side information, step and modes tell."""
        near = octaves(level)
        near = near.astype(FEATURES.dtype) if is_integer(z) else near * FEATURES.step
        known = jnp.broadcast_to(self.at_step(near), (*plane.shape(z), self.width))
        if self.split:
            known = add(known, plane.convolve(self.at_modes, _one_hot(modes, z)), STREAM)
        if self.side:
            x = depth_to_space(plane.convolve(self.expand[0], z), 2)
            known = add(depth_to_space(plane.convolve(self.expand[1], x), 2), known, STREAM)
        return Known(known, known[..., :0])

    def go_on(self, k: int, known: Known, part: Array, plane: Plane = GRID) -> Known:
        """What is known after slice k, whose latents are `part`."""
        if k == len(self.slices) - 1:
            return known
        signed = not self.direct or k < SIGNED
        seen = _seen(part, signed)
        features = add(known.features, plane.convolve(self.learn[k], seen), STREAM)
        return Known(features, seen[..., -part.shape[-1] :])

    def group(
        self, k: int, number: int, known: Known, part: Array, z: Array, plane: Plane = GRID
    ) -> Group:
        """The parameters of pass `number` over slice k; part: its known latents, others 0."""
        features = known.features
        if number:
            beside = plane.convolve(self.beside[k][number - 1], _seen(part))
            features = add(features, beside, STREAM)
        hidden = jnp.maximum(rescale(features, STREAM, FEATURES), 0)
        out = self.last[k](self.hidden[k](hidden))
        mean, row = jnp.split(out, 2, -1) if self.means else (jnp.zeros_like(out), out)
        if self.direct and k:
            row = add(row, self.straight[k - 1](known.sizes), OUTPUT)
        if not is_integer(out):  # integers are what they are, in larger units
            mean, row = 4 * mean, 16 * row
        if self.means and k == 0:
            near = self._resembling(number, part[..., :RESEMBLING], z, plane)
            rest = [(0, 0)] * 3 + [(0, mean.shape[-1] - near.shape[-1])]
            mean = add(mean, jnp.pad(near, rest), LATENT)
        row = rescale(row, WIDE_ROW, ROW)
        mean = jnp.where(row < FIRST_MEAN, jnp.zeros_like(mean), mean)
        if is_integer(row):
            return Group(mean, jnp.clip(row, 0, len(SCALES) - 1))
        row = entropy.lower_bound(entropy.upper_bound(row, len(SCALES) - 1.0), 0.0)
        return Group(mean, row)

    def _resembling(self, number, part, z, plane):
        """Means of low frequencies from averages in z, and from neighbours where some are known."""
        far = depth_to_space(plane.convolve(self.spread[number], z), SIDE_STRIDE)
        if number == 0:
            return far
        # Mirrored, a lattice of known positions goes on beyond the border.
        layer, wide = self.between[number - 1], rescale(part, LATENT, WIDE)
        return add(far, plane.convolve_mirrored(layer, wide), LATENT)


def _one_hot(modes, like):
    one_hot = (modes[..., None] == np.arange(4)).astype(jnp.int32)
    if is_integer(like):
        return (one_hot << FEATURES.fraction).astype(FEATURES.dtype)
    return one_hot.astype(jnp.float32)


def _seen(part, signed=True):
    return signed_logarithms(rescale(part, LATENT, LATENT), LATENT, FEATURES, signed)


def _diagonal(channels, value, key, shape, dtype=jnp.float32):
    """The first channels to themselves, from every tap; in 3 x 3 kernels from the middle alone."""
    taps = np.pad([[1.0]], 1) if shape[0] == 3 else np.ones(shape[:2])
    return jnp.asarray(value * taps[:, :, None, None] * _same(channels, shape), dtype)


def _same(channels, shape):
    """f32[in, out], 1 for each of the first channels and itself."""
    return np.eye(*shape[2:]) * (np.arange(shape[2]) < channels)[:, None]


def _neighbours(channels, across, key, shape, dtype=jnp.float32):
    """The average of the four neighbours beside, or of the four across."""
    taps = (np.add.outer(range(3), range(3)) % 2 == 1) ^ across
    taps = 0.25 * taps * (1 - np.pad([[1]], 1))
    return jnp.asarray(taps[:, :, None, None] * _same(channels, shape), dtype)


def _first_kernel(channels, key, shape, dtype=jnp.float32):
    """Means of 0, and scales that hardly differ."""
    kernel = 0.01 * jax.random.normal(key, shape, dtype)
    return kernel.at[..., :-channels].set(0.0)


def _first_bias(start, channels, key, shape, dtype=jnp.float32):
    """Means of 0, and scales that a DCT of photos has at middling steps: they fall as a power."""
    scale = 8.0 * (1.0 + start + np.arange(channels)) ** -0.62
    row = np.clip(np.log(scale / SCALES[0]) / LOG_RATIO, 0, len(SCALES) - 1)
    return jnp.zeros(shape, dtype).at[-channels:].set(row / 16)


def scale_of(row: Array) -> Array:
    """The scale of a row, continuous in it."""
    return SCALES[0] * jnp.exp(LOG_RATIO * row)


def restore(symbols: Array, mean: Array) -> Array:
    """LATENT integers of decoded symbols: saturated, so that no symbol leaves the grid."""
    limit = 1 << 12
    whole = jnp.clip(symbols, -limit, limit) << LATENT.fraction
    return saturate(whole + mean.astype(jnp.int32), LATENT)
