"""Layers that codecs share, in flax.linen, and their exact integer twins.

Modules load on first use (PEP 562).
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxcomp.nets import fixed_point as fixed_point
    from jaxcomp.nets import gain as gain
    from jaxcomp.nets import gdn as gdn
    from jaxcomp.nets import integer as integer
    from jaxcomp.nets import macs as macs
    from jaxcomp.nets import resample as resample
    from jaxcomp.nets import residual as residual
    from jaxcomp.nets import window_attention as window_attention

_MODULES = (
    "fixed_point",
    "gain",
    "gdn",
    "integer",
    "macs",
    "resample",
    "residual",
    "window_attention",
)


def __getattr__(name: str) -> ModuleType:
    if name in _MODULES:
        return importlib.import_module(f"jaxcomp.nets.{name}")
    raise AttributeError(f"module 'jaxcomp.nets' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
