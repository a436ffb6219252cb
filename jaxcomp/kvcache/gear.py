"""GEAR: few bits, a low-rank matrix beneath them, and outliers apart.

    X ~ A B + Q + S,   A B ~ X of rank r,   Q = round(X - A B without S),   S = what is left there

Q is KIVI's: keys by channel over the tokens of a chunk, values by token. Of every channel of keys,
and every token of values, the largest and the smallest entries are S, and stand at the mean of the
others while these are rounded, so that the grid spans no more than them.

Kang et al., GEAR, 2024, section 3 and algorithm 1. We differ: A B is taken from X, without the mean
of each channel, before rounding. The paper's is that of what rounding leaves, which says less of X
at the same bytes: attention over the tokens of tests/kvcache/test_gear.py was off by 0.56 so, and
is by 0.28 as it is here. (Where noise is as large as the low rank, another bit of codes is worth
more than either: 0.34 in 3.5 bits against 0.48 in 3.6.) Every chunk of a head has factors of its
own. S is what the others leave at its places, so these are right to 16 bits.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxcomp.base import KVCache, UnsupportedInput, random_bits
from jaxcomp.formats.format import Format
from jaxcomp.formats.qtensor import QTensor, quantize
from jaxcomp.kernels.dispatch import align
from jaxcomp.kvcache.apart import LONGEST, Apart, extremes, put, take
from jaxcomp.kvcache.chunked import chunked
from jaxcomp.kvcache.once import once

TURNS = 4  # of the power iteration: two more changed the error by less than 0.2 % in our tests
START = (0, 1)  # the key of the signs that it starts from


class Parts(NamedTuple):
    """Q; A bf16[..., tokens, rank] and B bf16[..., rank, size], or None; S, or None."""

    grid: QTensor
    low: tuple[jax.Array, jax.Array] | None
    apart: Apart | None


@once
def gear(
    slots: int,
    *,
    bits: int = 2,
    group: int = 128,
    rank: int = 4,
    outliers: float = 0.02,
    window: int = 0,
    scale: str = "bfloat16",
) -> KVCache:
    """bits of codes, rank of each chunk of `group` tokens, and the share of entries apart: of every
    vector at least the largest and the smallest, or none at 0. The paper's are 2, 4 and 0.02.

    A value takes bits + 2 * 16 / group (or size) + 16 * rank * (1 / group + 1 / size) bits, and 24
    for each outlier.
    """
    even = type(group) is int and 2 <= group <= LONGEST and not group % 2
    if bits not in (1, 2, 3, 4, 8) or not even:
        raise UnsupportedInput(
            f"expected bits of 1, 2, 3, 4, 8 and an even group up to {LONGEST}, got {bits!r} and "
            f"{group!r}; 2 and 128 serve"
        )
    if type(rank) is not int or not 0 <= rank <= group or not 0 <= outliers <= 0.1:
        raise UnsupportedInput(
            f"expected a rank of 0 to {group} and outliers from 0 to 0.1, got {rank} and "
            f"{outliers}; 4 and 0.02 serve"
        )
    format = Format(bits, scale=scale, zero=scale, name=f"uint{bits}")

    def encode(axis):
        return lambda x: compress(x, format, axis, rank, outliers)

    return chunked(
        slots,
        encode(-2),
        encode(-1),
        decode_keys=functools.partial(decompress, axis=-2),
        decode_values=functools.partial(decompress, axis=-1),
        group=group,
        window=window,
        name=f"gear {bits} bits rank {rank}",
    )


def compress(x: jax.Array, format: Format, axis: int, rank: int, outliers: float) -> Parts:
    """x f[..., tokens, size] with grids along `axis`, -2 or -1."""
    length = x.shape[axis]
    each = max(1, round(outliers * length / 2)) if outliers else 0  # at either end
    left = x.astype(jnp.float32)
    low = None
    if rank:
        low = principal(left - left.mean(-2, keepdims=True), min(rank, *x.shape[-2:]))
        low = tuple(factor.astype(jnp.bfloat16) for factor in low)
        left -= _product(low)
    outlying = extremes(left, each, axis=axis)
    grid = quantize(_filled(left, outlying, axis), format, axes=axis)
    apart = take(left - grid.dense(), outlying, 2 * each, axis=axis) if each else None
    return Parts(grid, low, apart)


def decompress(parts: Parts, axis: int) -> jax.Array:
    """f32[..., tokens, size] of what compress made."""
    x = parts.grid.dense()
    if parts.low is not None:
        x += _product(parts.low)
    return x if parts.apart is None else x + put(parts.apart, x.shape[axis], axis=axis)


def _product(low: tuple[jax.Array, jax.Array]) -> jax.Array:
    return jnp.matmul(*low, precision="highest", preferred_element_type=jnp.float32)


def _filled(x: jax.Array, apart: jax.Array, axis: int) -> jax.Array:
    """x with the mean of the other entries of their vector where `apart` says."""
    count = jnp.maximum((~apart).sum(axis, keepdims=True), 1)
    return jnp.where(apart, jnp.where(apart, 0.0, x).sum(axis, keepdims=True) / count, x)


def principal(
    x: Float[Array, "*batch rows columns"], rank: int
) -> tuple[Float[Array, "*batch rows rank"], Float[Array, "*batch rank columns"]]:
    """Factors whose product is near x's best approximation of the rank, by power iteration."""
    bits, _ = random_bits(START, np.arange(x.shape[-1] * rank, dtype=np.uint32))
    signs = (1.0 - 2.0 * (bits >> 31)).astype(np.float32).reshape(-1, rank)
    other = jnp.broadcast_to(signs, (*x.shape[:-2], *signs.shape))

    def turn(_, factors):
        one = jnp.linalg.qr(x @ factors[1])[0]
        return one, x.mT @ one

    blank = jnp.zeros((*x.shape[:-1], rank))
    one, other = lax.fori_loop(0, TURNS, turn, align(blank, other, x)[:2])
    return one, other.mT
