"""Channel-conditional prior: channels are coded in slices, each knowing those before it.

Slices go from low frequencies to high, small ones first: a few low frequencies say most about the
rest. The first of them may be coded in two passes, on a checkerboard (He et al. 2022, ELIC). Minnen
and Singh, Channel-wise autoregressive entropy models for learned image compression, ICIP 2020,
section 3.1; in place of networks on all slices before, ours add each slice to what is known.
"""

from jaxcomp.base import Codec

from .latent_codec import Design
from .latent_coding import latent_codec

SLICES = (3, 9, 20, 32, 48, 72, 112, 152, 192)
PASSES = (3, 2, 2)
SIDE, WIDTH = 48, 96


def channel_conditional(
    *,
    slices: tuple[int, ...] = SLICES,
    side: int = SIDE,
    width: int = WIDTH,
    passes: tuple[int, ...] = PASSES,
) -> Codec:
    """slices: channels of each; passes: over the positions of each, from the first, else one."""
    return latent_codec(Design("channel_conditional", slices, side, width, passes=passes))
