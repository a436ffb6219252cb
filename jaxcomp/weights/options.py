"""Options of methods: whole and real numbers within bounds, or an error that names them."""

import math
from numbers import Integral, Real
from typing import Any

from jaxcomp.base import UnsupportedInput


def check_whole(least: int, most: int | None = None, *, advice: str, **options: Any) -> None:
    """UnsupportedInput for an option that is no whole number from least to most."""
    bounds = f">= {least}" if most is None else f"from {least} to {most}"
    for name, value in options.items():
        good = isinstance(value, Integral) and not isinstance(value, bool)
        if not good or value < least or (most is not None and value > most):
            raise UnsupportedInput(
                f"expected {name} {bounds}, a whole number, got {value!r:.60}; {advice}"
            )


def check_real(
    least: float | int, most: float | int = math.inf, *, advice: str, **options: Any
) -> None:
    """UnsupportedInput for an option that is no finite number from least to most."""
    bounds = f">= {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
    for name, value in options.items():
        good = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if not good or not least <= value <= most:
            raise UnsupportedInput(
                f"expected {name} {bounds}, a finite number, got {value!r:.60}; {advice}"
            )
