"""Symbols as int32, and where each sits: group i // (T L), step i // L % T, lane i % L."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.base import JaxcompError


def split_steps(count: int, groups: int, lanes: int) -> int:
    """Steps T that `count` symbols take on groups x lanes."""
    return -(-count // (groups * lanes))


def lay_out(flat: Any, groups: int, lanes: int, *, fill: Any, steps: int | None = None) -> Any:
    """[n] -> [groups, steps, lanes], the positions left over holding `fill`.

    NumPy stays NumPy. More steps than needed (to meet a compiled shape) are left over as well:
    they come after the others, and change neither where a symbol sits nor any word.
    """
    xp = np if isinstance(flat, np.ndarray) else jnp
    needed = split_steps(flat.shape[0], groups, lanes)
    missing = groups * needed * lanes - flat.shape[0]
    if missing:
        flat = xp.concatenate([flat, xp.full(missing, fill, flat.dtype)])
    plane = flat.reshape(groups, needed, lanes)
    if steps is not None and steps > needed:
        plane = xp.pad(plane, ((0, 0), (0, steps - needed), (0, 0)), constant_values=fill)
    return plane


def as_int32(values: Any, name: str) -> Any:
    """values as int32: exactly, or not at all.

    Raises JaxcompError for other kinds than integers, and for integers that int32 does not hold;
    under a trace, where values cannot be looked at, for every wider type.
    """
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise JaxcompError(f"{name} must be integers, got {values.dtype}")
    if np.iinfo(values.dtype).max > np.iinfo(np.int32).max:
        if isinstance(values, jax.core.Tracer):
            raise JaxcompError(f"{name} must be int32 under a trace, got {values.dtype}; cast them")
        values = np.asarray(values)
        if values.size and (values.min() < -(1 << 31) or values.max() >= 1 << 31):
            raise JaxcompError(
                f"{name} must fit int32, got {values.min()} to {values.max()}; split them in two"
            )
    return values.astype(np.int32, copy=False)
