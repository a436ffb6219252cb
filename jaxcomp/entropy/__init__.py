"""How probable integers are: models with init, bits, tables and index, and what trains them.

Names load on first use (PEP 562).
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bounds import lower_bound as lower_bound
    from .bounds import upper_bound as upper_bound
    from .channelwise import channelwise as channelwise
    from .factorized import factorized as factorized
    from .factorized import factorized_log_mass as factorized_log_mass
    from .gaussian import gaussian as gaussian
    from .gaussian import gaussian_log_mass as gaussian_log_mass
    from .interval import noisy_bits as noisy_bits
    from .interval import scaled as scaled
    from .laplace import laplace as laplace
    from .laplace import laplace_log_mass as laplace_log_mass
    from .location_scale import location_scale as location_scale
    from .location_scale import scale_index as scale_index
    from .location_scale import scale_table as scale_table
    from .logistic import logistic as logistic
    from .logistic import logistic_log_mass as logistic_log_mass
    from .tails import find_tails as find_tails

_NAMES = {
    "bounds": ("lower_bound", "upper_bound"),
    "channelwise": ("channelwise",),
    "factorized": ("factorized", "factorized_log_mass"),
    "gaussian": ("gaussian", "gaussian_log_mass"),
    "interval": ("noisy_bits", "scaled"),
    "laplace": ("laplace", "laplace_log_mass"),
    "location_scale": ("location_scale", "scale_index", "scale_table"),
    "logistic": ("logistic", "logistic_log_mass"),
    "tails": ("find_tails",),
}
_HOME = {name: file for file, names in _NAMES.items() for name in names}


class _Entropy(ModuleType):
    """A package where `entropy.gaussian` stays the function after its file was imported.

    The import system binds an imported submodule in its package. That would hide the function of
    the same name, which an eager `from .gaussian import gaussian as gaussian` would have kept.
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


sys.modules[__name__].__class__ = _Entropy
