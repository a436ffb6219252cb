"""Where symbol i sits: group i // (T L), step i // L % T, lane i % L. Pinned by a golden test."""

from typing import Any

import jax.numpy as jnp
import numpy as np


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
