"""Channel-conditional prior: channels are coded in slices, each knowing those before it.

Slices go from low frequencies to high, small ones first: a few low frequencies say most about the
rest. The first of them may be coded in two passes, on a checkerboard (He et al. 2022, ELIC). Minnen
and Singh, Channel-wise autoregressive entropy models for learned image compression, ICIP 2020,
section 3.1; in place of networks on all slices before, ours add each slice to what is known.
"""

from jaxcomp.base import Codec

from .latent_codec import Design
from .latent_coding import latent_codec

SLICES = (3, 9, 20, 32, 48, 72, 112, 152, 320)
PASSES = (3, 2, 2)
SIDE, WIDTH = 48, 96


def channel_conditional(
    *,
    slices: tuple[int, ...] = SLICES,
    side: int = SIDE,
    width: int = WIDTH,
    passes: tuple[int, ...] = PASSES,
    split: bool = True,
    direct: bool = True,
) -> Codec:
    """slices: channels of each; passes: over the positions of each, from the first, else one.

    split: blocks of 16 pixels may be coded as 8s (latent_blocks). direct: each slice sees the sizes
    of the one before it in full, beside features.
    """
    name = "channel_conditional"
    return latent_codec(
        Design(name, slices, side, width, passes=passes, split=split, direct=direct)
    )
