"""Symbols as int32, and where each sits: group i // (T L), step i // L % T, lane i % L."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.base import JaxcompError


def split_steps(count: int, groups: int, lanes: int) -> int:
    """Steps T that `count` symbols take on groups x lanes."""
    return -(-count // (groups * lanes))


def lay_out(
    flat: Any,
    groups: int,
    lanes: int,
    *,
    fill: Any,
    steps: int | None = None,
    part: slice | None = None,
    dtype: Any = None,
) -> Any:
    """[n] -> [groups, steps, lanes], the positions left over holding `fill`.

    NumPy stays NumPy, and may be laid out in parts, a range of the groups each, and as a dtype that
    holds its values. More steps than
    needed (to meet a compiled shape) are left over as well: they come after the others, and change
    neither where a symbol sits nor any word.
    """
    needed = split_steps(flat.shape[0], groups, lanes)
    more = max(steps or 0, needed) - needed
    if isinstance(flat, np.ndarray):
        start, stop, _ = (part or slice(groups)).indices(groups)
        each = needed * lanes
        flat, dtype = flat[start * each : stop * each], dtype or flat.dtype
        return _lay_out(flat, (stop - start, needed, lanes), more, fill, dtype)
    missing = groups * needed * lanes - flat.shape[0]
    flat = jnp.concatenate([flat, jnp.full(missing, fill, flat.dtype)])
    plane = flat.reshape(groups, needed, lanes)
    return jnp.pad(plane, ((0, 0), (0, more), (0, 0)), constant_values=fill)


def _lay_out(flat, shape, more, fill, dtype):
    """In one pass: every symbol is copied once, or not at all."""
    groups, needed, lanes = shape
    full = flat.size // max(needed * lanes, 1)
    if full == groups and not more:
        return flat.reshape(shape).astype(dtype, copy=False)
    plane = np.empty((groups, needed + more, lanes), dtype)
    plane[:, needed:] = fill
    split = full * needed * lanes
    plane[:full, :needed] = flat[:split].reshape(full, needed, lanes)
    if full < groups:
        row = np.full(needed * lanes, fill, flat.dtype)
        row[: flat.size - split] = flat[split:]
        plane[full, :needed] = row.reshape(needed, lanes)
        plane[full + 1 :, :needed] = fill
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
