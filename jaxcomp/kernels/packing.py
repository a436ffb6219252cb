"""Small unsigned integers <-> bytes along one axis: what a packed weight looks like in memory.

The axis is cut into tiles of `tile` codes. A tile of T codes of p bits (p = 1, 2, 4 or 8) takes
T p / 8 bytes, and byte r holds the codes r, r + T p / 8, r + 2 T p / 8, ... of its tile, the first
in its lowest bits. So codes that share a byte are a fraction of a tile apart: unpacking is a shift,
a mask and a concatenation, and no kernel has to interleave lanes.

Other widths are stored as planes of those, low bits first, one after another in each tile:
3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2, 7 = 4 + 2 + 1. Three levels (`bits=TRITS`) go five to a byte,
byte r holding the codes r, r + B, ..., r + 4 B of its tile in base 3, with B = ceil(T / 5).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt8

TRITS = 0  # in place of a width: codes 0, 1 and 2
TRITS_PER_BYTE = 5  # 3**5 = 243 <= 256


def planes(bits: int) -> tuple[int, ...]:
    """The widths, each a power of two, that a code of `bits` is split into, low bits first."""
    return tuple(width for width in (8, 4, 2, 1) if bits & width)


def tile_bytes(tile: int, bits: int) -> int:
    """Bytes of one tile."""
    if bits == TRITS:
        return -(-tile // TRITS_PER_BYTE)
    return tile * bits // 8


def least_tile(bits: int) -> int:
    """The smallest tile that fills its bytes; every tile is a multiple of it."""
    return 1 if bits == TRITS else 8 // min(planes(bits))


def pack(
    codes: UInt8[Array, "*shape"], bits: int, *, axis: int, tile: int
) -> UInt8[Array, "*packed"]:
    """codes below 2**bits, a multiple of `tile` of them along `axis` -> bytes along that axis."""
    if bits == 8:
        return codes
    x = _split(codes, axis, tile)  # [..., tiles, tile, ...]
    axis %= codes.ndim
    inner = axis + 1
    if bits == TRITS:
        short = -tile % TRITS_PER_BYTE
        x = jnp.pad(x, [(0, short if i == inner else 0) for i in range(x.ndim)])
        parts = jnp.split(x, TRITS_PER_BYTE, inner)
        done = [sum(part * jnp.uint8(3**j) for j, part in enumerate(parts)).astype(jnp.uint8)]
    else:
        done, low = [], 0
        for width in planes(bits):
            parts = jnp.split(x >> low & ((1 << width) - 1), 8 // width, inner)
            done.append(_or(part << (j * width) for j, part in enumerate(parts)))
            low += width
    packed = jnp.concatenate(done, inner)
    return packed.reshape(*codes.shape[:axis], -1, *codes.shape[axis + 1 :])


def unpack(
    packed: UInt8[Array, "*packed"], bits: int, *, axis: int, tile: int
) -> UInt8[Array, "*shape"]:
    """The inverse of pack."""
    if bits == 8:
        return packed
    x = _split(packed, axis, tile_bytes(tile, bits))
    axis %= packed.ndim
    inner = axis + 1
    if bits == TRITS:
        parts = [x // jnp.uint8(3**j) % jnp.uint8(3) for j in range(TRITS_PER_BYTE)]
        codes = jnp.concatenate(parts, inner)
        codes = jax.lax.slice_in_dim(codes, 0, tile, axis=inner)
    else:
        codes, low, start = [], 0, 0
        for width in planes(bits):
            stop = start + tile * width // 8
            plane = jax.lax.slice_in_dim(x, start, stop, axis=inner)
            mask = (1 << width) - 1
            parts = [plane >> (j * width) & mask for j in range(8 // width)]
            codes.append(jnp.concatenate(parts, inner) << low)
            low, start = low + width, stop
        codes = _or(codes)
    return codes.reshape(*packed.shape[:axis], -1, *packed.shape[axis + 1 :])


def _split(x: jax.Array, axis: int, size: int) -> jax.Array:
    """[..., n * size, ...] -> [..., n, size, ...]."""
    axis %= x.ndim
    return x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1 :])


def _or(parts) -> jax.Array:
    first, *rest = parts
    for part in rest:
        first = first | part
    return first
