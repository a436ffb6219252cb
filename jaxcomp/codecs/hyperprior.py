"""Scale hyperprior: side information says how large each latent may be; means are 0.

    y_hat = round(y),   y ~ N(0, scale(z_hat)**2),   z from a learned density per channel

Balle, Minnen, Singh, Hwang and Johnston, Variational image compression with a scale hyperprior,
ICLR 2018, section 3. Their transforms are deep; ours begin as a DCT (latent_transforms).
"""

from jaxcomp.base import Codec

from .latent_codec import Design
from .latent_coding import latent_codec

CHANNELS = 640  # of 768 per block of 16 x 16: the highest chroma frequencies are left out


def hyperprior(*, channels: int = CHANNELS, side: int = 64, width: int = 128) -> Codec:
    """channels: latents per block; side: channels of z; width: of the networks. One pass."""
    return latent_codec(Design("hyperprior", (channels,), side, width, means=False))
