"""Factorized prior: no side information and no context, scales follow from channel and step alone.

The plainest of the codecs of learned latents, and what the others are measured against. Balle,
Laparra and Simoncelli, End-to-end optimized image compression, ICLR 2017; Balle, Minnen, Singh,
Hwang and Johnston, ICLR 2018, section 2 (its factorized-prior model). Both learn one density per
channel and one model per rate; ours serves all rates, so a channel's density is one of the scale
table's, chosen by channel and step.
"""

from jaxcomp.base import Codec

from .hyperprior import CHANNELS
from .latent_codec import Design
from .latent_coding import latent_codec


def factorized(*, channels: int = CHANNELS, width: int = 96) -> Codec:
    """channels: latents per block; width: of the network from step to scales. One pass."""
    return latent_codec(Design("factorized", (channels,), 0, width, means=False))
