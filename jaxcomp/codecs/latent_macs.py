"""What decoding costs a codec of learned latents: multiply-accumulates per pixel of an image.

    prior        what side information tells, and after each slice what is known: once per position.
                 The parameters of a group: at every position in every pass, though a pass keeps
                 those of its own positions alone; so a slice in three passes counts three times
    synthesis    latents to pixels

Each weight times each input counts once, and an int16 layer is not four int8 ones: nets.macs. What
is no layer is not counted: rANS, gains, rounding, colours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.nets.macs import macs

from .latent_codec import Design, joined, networks
from .latent_plane import SIDE_STRIDE, Cells
from .latent_prior import LATENT, SIDE, LatentPrior
from .latent_tiles import padded_shape
from .latent_transforms import BLOCK

KODAK = 512, 768  # a photo that papers count for; borders cost small images more


class DecoderMacs(NamedTuple):
    """Multiply-accumulates per pixel."""

    prior: float
    synthesis: float

    @property
    def total(self) -> float:
        """All of a decoder's."""
        return self.prior + self.synthesis


def decoder_macs_per_pixel(design: Design, shape: tuple[int, int] = KODAK) -> DecoderMacs:
    """Of an image of height x width pixels, the padding to whole cells of 64 x 64 counted too.

    Nothing runs: shapes are traced, in a second or two.
    """
    nets, pixels = networks(design), shape[0] * shape[1]
    height, width = (side // (BLOCK * SIDE_STRIDE) for side in padded_shape(*shape))
    cells = Cells(np.zeros((height * width, 4), np.int32), {})
    blocks = len(cells.near), SIDE_STRIDE, SIDE_STRIDE
    z = jax.ShapeDtypeStruct((len(cells.near), 1, 1, design.side), SIDE.dtype)
    latents = jax.ShapeDtypeStruct((*blocks, sum(design.slices)), LATENT.dtype)
    level = jax.ShapeDtypeStruct((1,), jnp.int32)
    modes = jax.ShapeDtypeStruct(blocks, jnp.int32) if design.split else None

    def paint(latents, modes):
        return nets.synthesis.apply({}, joined(latents, modes), modes, cells)

    def decode(*arguments):
        return nets.prior.apply({}, *arguments, cells, method=_decode)

    prior = macs(decode, z, level, latents, modes)
    return DecoderMacs(prior / pixels, macs(paint, latents, modes) / pixels)


def _decode(prior: LatentPrior, z, level, latents, modes, cells):
    """What latent_walk asks of a prior for one image, with latents that are there already."""
    known, start, groups = prior.begin(z, level, modes, cells), 0, []
    for k, size in enumerate(prior.slices):
        part = latents[..., start : start + size]
        groups += [prior.group(k, n, known, part, z, cells) for n in range(prior.passes_of(k))]
        known, start = prior.go_on(k, known, part, cells), start + size
    return groups
