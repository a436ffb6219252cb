"""The codec that the package ships trained: channel_conditional, with weights for every rate.

learned.jxw is what `jaxcomp train image` made; benchmarks/results/learned.json says from what and
how. Files name the hash of the integers that decode them: weights that were once released stay.
"""

import functools
import importlib.resources
from typing import Any

from jaxcomp.base import Codec

from .latent_coding import latent_codec
from .latent_frozen import Frozen
from .weights import load_weights

WEIGHTS = "learned.jxw"


def learned() -> Codec:
    """The codec: encode(params, image, quality=50 or bpp=0.5), decode(params, payload)."""
    design = _load()[0].init.args[0]
    return latent_codec(design._replace(name="learned"))._replace(init=init)


def init(key: Any = None) -> Frozen:
    """The weights that the package ships; key is not used."""
    return _load()[1]


@functools.cache
def _load():
    path = importlib.resources.files(__package__) / WEIGHTS
    return load_weights(path.read_bytes())
