"""The codec that the package ships trained: channel_conditional, with weights for every rate.

learned.jxw is what `jaxcomp train image` made; benchmarks/results/learned.json says from what and
how. Files name the hash of the integers that decode them: weights that were once released stay.
"""

import functools
import importlib.resources
from typing import Any

from jaxcomp.base import Codec

from .channel_conditional import PASSES, SIDE, SLICES, WIDTH
from .latent_codec import Design
from .latent_coding import latent_codec
from .latent_frozen import Frozen
from .weights import load_weights

WEIGHTS = "learned.jxw"


def learned() -> Codec:
    """The codec: encode(params, image, quality=50 or bpp=0.5), decode(params, payload)."""
    design = Design("learned", SLICES, SIDE, WIDTH, passes=PASSES)
    return latent_codec(design)._replace(init=init)


@functools.cache
def init(key: Any = None) -> Frozen:
    """The weights that the package ships; key is not used."""
    path = importlib.resources.files(__package__) / WEIGHTS
    return load_weights(path.read_bytes())[1]
