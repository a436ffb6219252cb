"""Checkerboard context: half of the positions are coded first, and tell of their neighbours.

Two passes, whatever the size of the image, instead of one per position. He, Zheng, Sun, Wang and
Qin, Checkerboard context model for efficient learned image compression, CVPR 2021, section 3.2. The
context is a 3 x 3 convolution of the decoded half (theirs: 5 x 5), added before the parameters.
"""

from jaxcomp.base import Codec

from .hyperprior import CHANNELS
from .latent_codec import Design
from .latent_coding import latent_codec


def checkerboard(*, channels: int = CHANNELS, side: int = 64, width: int = 128) -> Codec:
    """channels: latents per block; side: channels of z; width: of the networks. Two passes."""
    return latent_codec(Design("checkerboard", (channels,), side, width, passes=(2,)))
