"""Values -> intervals of their table, and the codes of those that lie outside it.

With tables.escape the last column announces that a value lies outside; the value itself travels in
the stream's side array of escapes, as the zigzag of its distance to the table: 0, 1, 2, ... are the
first values above and below it, so that small excesses cost few bits once packed. Distances wrap as
int32 does, so every int32 has exactly one code.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, UInt32

from jaxcomp.coding.tables import Tables


def intervals(tables: Tables, symbols: Any, index: Any) -> tuple[Any, Any, Any]:
    """(entry of each symbol, whether it lies outside its table, whether it cannot be coded)."""
    offset = tables.offset[0] if index is None else tables.offset[index]
    count, width = tables.entries.shape
    distance = symbols - offset
    outside = distance.astype(jnp.uint32) >= width - tables.escape
    column = jnp.where(outside, width - 1, distance)
    bad = jnp.zeros_like(outside) if tables.escape else outside
    if index is not None:
        bad |= index.astype(jnp.uint32) >= count
        column = index * width + column
    return tables.entries.reshape(-1).at[column].get(mode="clip"), outside, bad


def escape_code(tables: Tables, symbols: Any, index: Any) -> UInt32[Array, "*shape"]:
    """What stands for a symbol outside its table: the zigzag of its distance to it."""
    distance = symbols - (tables.offset[0] if index is None else tables.offset[index])
    # Closing the gap that the table leaves makes the codes small.
    beyond = jnp.where(distance >= 0, distance - (tables.entries.shape[1] - 1), distance)
    return ((beyond << 1) ^ (beyond >> 31)).astype(jnp.uint32)


def escape_distance(
    tables: Tables, code: UInt32[Array | np.ndarray, "*shape"]
) -> Int32[Array | np.ndarray, "*shape"]:
    """The distance from column 0 that an escape code stands for."""
    xp = np if isinstance(code, np.ndarray) else jnp
    beyond = (code >> 1).astype(np.int32) ^ -(code & 1).astype(np.int32)
    return xp.where(beyond >= 0, beyond + tables.entries.shape[1] - 1, beyond)
