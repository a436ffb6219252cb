"""Mean-scale hyperprior: side information says where each latent may be, and how far from there.

    y_hat = mean(z_hat) + round(y - mean(z_hat)),   y ~ N(mean(z_hat), scale(z_hat)**2)

Minnen, Balle and Toderici, Joint autoregressive and hierarchical priors for learned image
compression, NeurIPS 2018, section 2, without the autoregressive part.
"""

from jaxcomp.base import Codec

from .hyperprior import CHANNELS
from .latent_codec import Design
from .latent_coding import latent_codec


def mean_scale(*, channels: int = CHANNELS, side: int = 64, width: int = 128) -> Codec:
    """channels: latents per block; side: channels of z; width: of the networks. One pass."""
    return latent_codec(Design("mean_scale", (channels,), side, width))
