"""Signals to bytes and back: one codec per file, and the .jxc files that carry them.

Names load on first use (PEP 562): which codecs there are, and whether a file is sound, can be asked
without importing jax.
"""

from typing import TYPE_CHECKING

from jaxcomp.lazy import load_on_use

if TYPE_CHECKING:
    from .channel_conditional import channel_conditional as channel_conditional
    from .checkerboard import checkerboard as checkerboard
    from .dct import dct as dct
    from .factorized import factorized as factorized
    from .files import load as load
    from .files import save as save
    from .hyperprior import hyperprior as hyperprior
    from .learned import learned as learned
    from .mean_scale import mean_scale as mean_scale
    from .weights import load_weights as load_weights
    from .weights import save_weights as save_weights

load_on_use(
    __name__,
    {
        "channel_conditional": ("channel_conditional",),
        "checkerboard": ("checkerboard",),
        "dct": ("dct",),
        "factorized": ("factorized",),
        "files": ("load", "save"),
        "hyperprior": ("hyperprior",),
        "learned": ("learned",),
        "mean_scale": ("mean_scale",),
        "weights": ("load_weights", "save_weights"),
    },
)
