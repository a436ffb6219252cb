"""Small designs, and what is made of them, once a process."""

import functools
from typing import Any

import jax

from jaxcomp.codecs import latent_codec
from jaxcomp.codecs.latent_codec import Design
from jaxcomp.codecs.latent_frozen import Frozen, freeze

MEAN_SCALE = Design("mean_scale", (24, 40), side=8, width=16)
# For programs that run once: compilers take far longer to optimize them than that saves.
QUICK = {"xla_backend_optimization_level": 0}


@functools.cache
def initial(design: Design, seed: int = 0) -> dict[str, Any]:
    """Fresh parameters."""
    return latent_codec.init(design, jax.random.key(seed))


@functools.cache
def frozen(design: Design, seed: int = 0) -> Frozen:
    """What encodes and decodes before any training."""
    return freeze(design, initial(design, seed))
