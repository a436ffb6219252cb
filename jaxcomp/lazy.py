"""Packages whose names load on first use (PEP 562): importing them imports nothing heavy."""

import importlib
import sys
from types import ModuleType
from typing import Any


def load_on_use(package: str, files: dict[str, tuple[str, ...]]) -> None:
    """Give a package, from its __init__, the names of its files; a file without names is its own.

    A package where `codecs.dct` stays the function dct also after its file dct.py was imported: the
    import system binds an imported submodule in its package, which would hide the function that an
    eager `from .dct import dct as dct` would have kept.
    """
    module = sys.modules[package]
    vars(module)["_files"] = {
        name: (file, bool(names)) for file, names in files.items() for name in names or (file,)
    }
    module.__class__ = _Lazy


class _Lazy(ModuleType):
    _files: dict[str, tuple[str, bool]]  # of each name: its file, and whether it is inside it

    def __getattr__(self, name: str) -> Any:
        if name not in self._files:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        file, inside = self._files[name]
        found = importlib.import_module(f"{self.__name__}.{file}")
        return getattr(found, name) if inside else found

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and self._files.get(name, ("", False))[1]:
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._files})
