"""How many entries are sent, and where they lie: about log2(size / count) + 2 bits for each.

Places in order, each split: l = floor(log2(size / count)) low bits as they are, and of the rest one
bit string, in which place i has bit (place >> l) + i. It has `count` ones and at most twice as many
zeros: two bits for each place where they are dense, three at most. Elias, Efficient Storage and
Retrieval by Content and Address of Static Files, JACM 1974; Fano, 1971. Its size is known before
the places are, as a collective's has to be, and half a bit a place above the least that any has.

Of low bits whole bytes come first, the lowest first, as u8[bytes * places]; then what bits are left
over, packed by kernels/packing.py; then the bit string.
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
    """k places below size, each above the one before."""
    count = len(places)
    if not count:
        return jnp.zeros(0, jnp.uint8)
    low, length = _low(size, count), _length(size, count)
    ones = (places >> low) + jnp.arange(count)
    string = jnp.zeros(length, jnp.uint8).at[ones].set(1)
    numbers = pack_numbers(places & ((1 << low) - 1), low)
    return jnp.concatenate([numbers, packing.pack(string, 1, axis=0, tile=length)])


def unpack_places(packed: UInt8[Array, " bytes"], size: int, count: int) -> Int32[Array, " k"]:
    """The inverse of pack_places. Of other bytes, some places, maybe beyond size."""
    if not count:
        return jnp.zeros(0, jnp.int32)
    low, length = _low(size, count), _length(size, count)
    start = numbers_nbytes(count, low)
    string = packing.unpack(packed[start:], 1, axis=0, tile=length)
    order = jnp.cumsum(string, dtype=jnp.int32) - 1
    ones = jnp.zeros(count, jnp.int32)
    ones = ones.at[jnp.where(string != 0, order, count)].set(jnp.arange(length), mode="drop")
    return (ones - jnp.arange(count)) << low | unpack_numbers(packed[:start], low, count)


def pack_numbers(numbers: Int32[Array, " k"], bits: int) -> UInt8[Array, " bytes"]:
    """k numbers below 2**bits."""
    whole, rest = divmod(bits, 8)
    parts = [(numbers >> 8 * i & 255).astype(jnp.uint8) for i in range(whole)]
    if rest:
        tile = packing.least_tile(rest)
        high = jnp.pad((numbers >> 8 * whole).astype(jnp.uint8), (0, -len(numbers) % tile))
        parts.append(packing.pack(high, rest, axis=0, tile=tile))
    return jnp.concatenate(parts) if parts else jnp.zeros(0, jnp.uint8)


def unpack_numbers(packed: UInt8[Array, " bytes"], bits: int, count: int) -> Int32[Array, " k"]:
    """The inverse of pack_numbers."""
    whole, rest = divmod(bits, 8)
    numbers = jnp.zeros(count, jnp.int32)
    for i in range(whole):
        numbers |= packed[i * count : (i + 1) * count].astype(jnp.int32) << 8 * i
    if rest:
        high = packing.unpack(packed[whole * count :], rest, axis=0, tile=packing.least_tile(rest))
        numbers |= high[:count].astype(jnp.int32) << 8 * whole
    return numbers


def numbers_nbytes(count: int, bits: int) -> int:
    """Bytes of pack_numbers."""
    whole, rest = divmod(bits, 8)
    tile = packing.least_tile(rest) if rest else 1
    return whole * count + -(-count // tile) * tile * rest // 8


def _low(size: int, count: int) -> int:
    return (size // count).bit_length() - 1


def _length(size: int, count: int) -> int:
    """Bits of the string, of whole bytes."""
    bits = count + ((size - 1) >> _low(size, count)) + 1
    return bits + -bits % 8
