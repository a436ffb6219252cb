"""Entropy models of location-scale families, with one table per scale.

Scales are continuous in training and one of a few log-spaced ones in coding: the nearest in log
scale. With 64 of them from 0.11 to 64 that costs a Gaussian symbol 0.001 bits, 0.004 at worst.
Whatever decides a table must be the same integer in the encoder and the decoder. So `scale` can be
given in two ways:

    a float array      the scale itself: for training, and for coding on one machine
    an integer array   its row in the scale table, from a network that computes in integers

The mean only shifts: the integers that are coded are round(y - mean).
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from jaxcomp.base import EntropyModel, JaxcompError
from jaxcomp.entropy.bounds import lower_bound, upper_bound
from jaxcomp.entropy.interval import LogMass, noisy_bits, scaled
from jaxcomp.entropy.row_tables import row_tables


def scale_table(
    minimum: float = 0.11, maximum: float = 64.0, levels: int = 64
) -> Float[np.ndarray, " levels"]:
    """Log-spaced scales, float32. At 0.11 a Gaussian is 0 but once in 180,000 times."""
    if not 0 < minimum <= maximum or levels < 1:
        raise JaxcompError(
            f"expected 0 < minimum <= maximum and a level, got {minimum}, {maximum}, {levels}"
        )
    return np.geomspace(minimum, maximum, levels).astype(np.float32)


def scale_index(
    scales: Float[np.ndarray, " levels"], scale: Float[Array | np.ndarray, "*shape"]
) -> Int32[Array, "*shape"]:
    """The row of the scale table nearest to each scale, by ratio."""
    boundaries = np.sqrt(scales[:-1].astype(np.float64) * scales[1:]).astype(np.float32)
    return jnp.searchsorted(boundaries, jnp.asarray(scale, jnp.float32)).astype(jnp.int32)


def location_scale(
    log_mass: LogMass,
    *,
    scales: Float[np.ndarray, " levels"] | None = None,
    **options: Any,
) -> EntropyModel:
    """The model of mean + scale * Z, Z with the given log_mass(lower, upper).

    bits(params, y, scale, mean=0) and index(params, shape, scale, mean=None); params is {}.
    scale: float, bounded to the table with the gradient rule of lower_bound, or an integer row.
    scales: ascending, scale_table() by default; one table each. Other options as row_tables.
    """
    scales = scale_table() if scales is None else np.asarray(scales, np.float32)
    if scales.ndim != 1 or not len(scales) or not (scales[0] > 0 and (np.diff(scales) > 0).all()):
        raise JaxcompError(f"expected positive ascending scales, got {scales}; see scale_table")
    moved = scaled(log_mass)

    def init(key=None):
        return {}

    def bits(params, y, scale, mean=0.0):
        if jnp.issubdtype(jnp.result_type(scale), jnp.integer):
            scale = jnp.asarray(scales)[scale]
        else:
            scale = jnp.asarray(scale, jnp.float32)
            scale = upper_bound(lower_bound(scale, scales[0]), scales[-1])
        return noisy_bits(moved, y, scale, mean)

    def index(params, shape, scale, mean=None):
        if not jnp.issubdtype(jnp.result_type(scale), jnp.integer):
            scale = scale_index(scales, scale)
        return jnp.broadcast_to(jnp.asarray(scale, jnp.int32), shape)

    def rows(params, lower, upper):
        return moved(lower, upper, jnp.asarray(scales))

    return EntropyModel(init, bits, row_tables(rows, len(scales), **options), index)
