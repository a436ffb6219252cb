"""Values -> intervals of their table, and the codes of those that lie outside it.

With tables.escape the last column announces that a value lies outside; the value itself travels in
the stream's side array of escapes, as the zigzag of its distance to the table: 0, 1, 2, ... are the
first values above and below it, so that small excesses cost few bits once packed. Distances wrap as
int32 does, so every int32 has exactly one code.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int32, UInt32

from jaxcomp.coding.tables import Tables


def intervals(tables: Tables, symbols: Any, index: Any) -> tuple[Any, Any, Any, Any]:
    """(entry of each symbol, whether it escapes, its escape code, whether any is out of range)."""
    offset = tables.offset[0] if index is None else tables.offset[index]
    count, width = tables.entries.shape
    inner = width - tables.escape
    distance = symbols - offset
    outside = distance.astype(jnp.uint32) >= inner
    column = jnp.where(outside, width - 1, distance)
    bad = jnp.zeros((), bool) if tables.escape else outside.any()
    if index is None:
        entries = tables.entries[0].at[column].get(mode="clip")
    else:
        bad |= (index.astype(jnp.uint32) >= count).any()
        entries = tables.entries.reshape(-1).at[index * width + column].get(mode="clip")
    # Zigzag, after closing the gap that the table itself leaves: small distances, small codes.
    beyond = jnp.where(distance >= 0, distance - inner, distance)
    return entries, outside, ((beyond << 1) ^ (beyond >> 31)).astype(jnp.uint32), bad


def distance(code: UInt32[Array, "*shape"], tables: Tables) -> Int32[Array, "*shape"]:
    """The distance from column 0 that an escape code stands for."""
    beyond = (code >> 1).astype(jnp.int32) ^ -(code & 1).astype(jnp.int32)
    return jnp.where(beyond >= 0, beyond + tables.entries.shape[1] - 1, beyond)
