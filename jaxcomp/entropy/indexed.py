"""Densities chosen from a grid of parameters by one or several indexes that a network predicts.

Training sees densities at fractional indexes, and learns by how bits change with them; coding
rounds the indexes, and has a table for each cell of the grid. The general form of location_scale:
several parameters, any functions of the indexes (tensorflow-compression's
ContinuousIndexedEntropyModel).
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxcomp.base import EntropyModel, JaxcompError
from jaxcomp.entropy.bounds import lower_bound, upper_bound
from jaxcomp.entropy.interval import LogMass, noisy_bits
from jaxcomp.entropy.row_tables import row_tables


def indexed(
    log_mass: LogMass,
    ranges: tuple[int, ...],
    parameters: Callable[[Float[Array, "*shape n"]], tuple[Array, ...]],
    **options: Any,
) -> EntropyModel:
    """The model of log_mass(lower, upper, *parameters(indexes)); params is {}.

    Side: indexes [*shape, n], float or integer, index i in [0, ranges[i] - 1]; beyond, they are
    bounded with the gradient rule of lower_bound. parameters maps float32 indexes to arrays of
    shape [*shape]. One table per cell, the last index fastest. Options as row_tables.
    """
    if not ranges or min(ranges) < 1:
        raise JaxcompError(f"expected a range of at least 1 for each index, got {ranges}")
    highest = np.array(ranges, np.float32) - 1
    strides = np.array([math.prod(ranges[i + 1 :]) for i in range(len(ranges))], np.int32)
    cells = np.stack(np.unravel_index(np.arange(math.prod(ranges)), ranges), axis=-1)

    def bounded(indexes):
        if jnp.shape(indexes)[-1:] != (len(ranges),):
            raise JaxcompError(
                f"expected a last axis of {len(ranges)} indexes, got shape {jnp.shape(indexes)}"
            )
        indexes = jnp.asarray(indexes, jnp.float32)
        return upper_bound(lower_bound(indexes, np.float32(0)), highest)

    def init(key=None):
        return {}

    def bits(params, y, indexes):
        return noisy_bits(log_mass, y, *parameters(bounded(indexes)))

    def rows(params, lower, upper):
        return log_mass(lower, upper, *parameters(jnp.asarray(cells, jnp.float32)))

    def index(params, shape, indexes):
        cell = jnp.round(bounded(indexes)).astype(jnp.int32)
        return jnp.broadcast_to((cell * strides).sum(-1, dtype=jnp.int32), shape)

    return EntropyModel(init, bits, row_tables(rows, len(cells), **options), index)
