"""Signals to bytes and back: one codec per file, and the .jxc files that carry them.

Names load on first use (PEP 562): which codecs there are, and whether a file is sound, can be asked
without importing jax.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dct import dct as dct
    from .files import load as load
    from .files import save as save

_HOME = {"dct": "dct", "load": "files", "save": "files"}  # public name -> the file that holds it


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
