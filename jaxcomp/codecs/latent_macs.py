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

from jaxcomp.nets.macs import macs

from .latent_codec import Design, joined, networks
from .latent_prior import LATENT, SIDE, SIDE_STRIDE, LatentPrior
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
    """Of an image of height x width pixels, the padding to whole blocks of 64 counted too.

    Nothing runs: shapes are traced, in a second or two.
    """
    nets, pixels = networks(design), shape[0] * shape[1]
    height, width = (side // BLOCK for side in padded_shape(*shape))
    z = _like(SIDE, height // SIDE_STRIDE, width // SIDE_STRIDE, design.side)
    latents = _like(LATENT, height, width, sum(design.slices))
    level = jax.ShapeDtypeStruct((1,), jnp.int32)
    modes = [jax.ShapeDtypeStruct((1, height, width), jnp.int32)] if design.split else []
    prior = macs(lambda *a: nets.prior.apply({}, *a, method=_decode), z, level, latents, *modes)
    synthesis = macs(lambda y, *m: nets.synthesis.apply({}, joined(y, *m), *m), latents, *modes)
    return DecoderMacs(prior / pixels, synthesis / pixels)


def _like(grid, *shape):
    return jax.ShapeDtypeStruct((1, *shape), grid.dtype)


def _decode(prior: LatentPrior, z, level, latents, modes=None):
    """What latent_coding asks of a prior for one image, with latents that are there already."""
    known, start, groups = prior.begin(z, level, modes), 0, []
    for k, size in enumerate(prior.slices):
        part = latents[..., start : start + size]
        groups += [prior.group(k, n, known, part, z) for n in range(prior.passes_of(k))]
        known, start = prior.go_on(k, known, part), start + size
    return groups
