"""Signals to bytes and back: one codec per file, and the .jxc files that carry them.

Names load on first use (PEP 562): which codecs there are, and whether a file is sound, can be asked
without importing jax.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

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

_FILES = {
    "channel_conditional": ("channel_conditional",),
    "checkerboard": ("checkerboard",),
    "dct": ("dct",),
    "factorized": ("factorized",),
    "files": ("load", "save"),
    "hyperprior": ("hyperprior",),
    "learned": ("learned",),
    "mean_scale": ("mean_scale",),
    "weights": ("load_weights", "save_weights"),
}
_HOME = {name: file for file, names in _FILES.items() for name in names}


class _Codecs(ModuleType):
    """A package where `codecs.dct` stays the function dct also after its file dct.py was imported.

    The import system binds an imported submodule in its package. That would hide the function of
    the same name, which an eager `from .dct import dct as dct` would have kept.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOME and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_HOME})


sys.modules[__name__].__class__ = _Codecs
