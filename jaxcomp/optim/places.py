"""How many entries are sent, and where they lie: ceil(log2 size) bits for each place.

Whole bytes of the places come first, low ones first, as u8[bytes * places]; then what bits are left
over, packed by kernels/packing.py.
"""

import jax.numpy as jnp
from jaxtyping import Array, Int32, UInt8

from jaxcomp.base import UnsupportedInput
from jaxcomp.kernels import packing


def count_of(size: int, density: float) -> int:
    """density * size rounded, at least 1; 0 of none. UnsupportedInput for no share of 1."""
    if not 0 < density <= 1:
        raise UnsupportedInput(
            f"expected a density above 0 and at most 1, got {density}; 0.01 sends one in a hundred"
        )
    return min(size, max(1, round(size * density)))


def pack_places(places: Int32[Array, " k"], size: int) -> UInt8[Array, " bytes"]:
    """k places below size."""
    whole, rest = divmod(_bits(size), 8)
    parts = [(places >> 8 * i & 255).astype(jnp.uint8) for i in range(whole)]
    if rest:
        tile = packing.least_tile(rest)
        high = jnp.pad((places >> 8 * whole).astype(jnp.uint8), (0, -len(places) % tile))
        parts.append(packing.pack(high, rest, axis=0, tile=tile))
    return jnp.concatenate(parts) if parts else jnp.zeros(0, jnp.uint8)


def unpack_places(packed: UInt8[Array, " bytes"], size: int, count: int) -> Int32[Array, " k"]:
    """The inverse of pack_places."""
    whole, rest = divmod(_bits(size), 8)
    places = jnp.zeros(count, jnp.int32)
    for i in range(whole):
        places |= packed[i * count : (i + 1) * count].astype(jnp.int32) << 8 * i
    if rest:
        high = packing.unpack(packed[whole * count :], rest, axis=0, tile=packing.least_tile(rest))
        places |= high[:count].astype(jnp.int32) << 8 * whole
    return places


def _bits(size: int) -> int:
    return max(0, size - 1).bit_length()
