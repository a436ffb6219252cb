"""rotated: tokens turned by a random rotation, after which every entry is normal, and rounded so.

    x = |x| / sqrt(size) R^T u,   u close to normal of variance 1, to the nearest Lloyd-Max level

The rotation leaves q k and what values mix to as they are, so queries are rotated instead of keys,
and outputs are rotated back once instead of every value. Outlier channels, which spoil groups along
the head, are gone; one norm per token is all that is kept beside codes; nothing is calibrated.

The nearest level is nearer to 0, on average, than what it stands for, and so are products: by 36 %
at 1 bit, by 12 % at 2. With residual=True one bit of a key goes to what the others leave of it,

    r ~ t S^T sign(S r),   t = |r|^2 / |S r|_1,   S another random rotation

which makes products right on average, and each by itself less so: attention over made keys of size
128 is off by 0.30 with it at 3 bits, by 0.27 without. Reading takes a rotation of every key.

Zandieh et al., TurboQuant, arXiv:2504.19874, sections 3.1 and 3.2. We differ: rotations are
Hadamard matrices with random signs (a random orthogonal factor where the size has none), at
O(size log size); the levels are those of the normal distribution, to which the entries tend as the
size grows. S is normal there, and t is sqrt(pi / 2) |r| / size; ours is what keeps the mean of a
rotation (Vargaftik et al., DRIVE, 2021, section 4).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import linalg, stats

from jaxcomp.base import KVCache, UnsupportedInput, random_bits
from jaxcomp.formats.format import Format
from jaxcomp.formats.layout import to_matrix
from jaxcomp.formats.leaf import dense
from jaxcomp.formats.qtensor import QTensor, from_groups
from jaxcomp.kernels import hadamard, packing
from jaxcomp.kvcache.chunked import chunked, compiled
from jaxcomp.kvcache.inputs import check_array
from jaxcomp.kvcache.once import once

ROTATION_KEY = (0, 0)  # of signs, and of the factor of sizes without a Hadamard matrix
RESIDUAL_KEY = (0, 3)  # the same of S
BITS = (1, 2, 3, 4, 8)  # that pack
TOLERANCE = 1e-10  # of levels between two steps


class Signed(NamedTuple):
    """levels; signs u8[..., size / 8] of S r; t [..., 1]."""

    levels: QTensor
    signs: jax.Array
    step: jax.Array


@once
def rotated(
    slots: int,
    *,
    bits: int = 4,
    values: int | None = None,
    residual: bool = False,
    scale: str = "bfloat16",
) -> KVCache:
    """bits of keys, and of values where no other number is given; the norm of a token is a `scale`.

    A value takes bits + 16 / size bits. residual: one of the bits of a key is that of what the
    others leave, which takes 16 / size more.
    """
    values = bits if values is None else values
    levels = bits - residual
    if not {levels, values} <= set(BITS):
        raise UnsupportedInput(
            f"expected bits of {BITS}, and one more where it is for a residual, got {bits} and "
            f"{values}; 4 is usual"
        )
    keys, decode = functools.partial(_encode, normal(levels, scale)), dense
    if residual:
        keys, decode = functools.partial(_encode_signed, normal(levels, scale)), _decode_signed
    cache = chunked(
        slots,
        keys,
        functools.partial(_encode, normal(values, scale)),
        decode_keys=decode,
        name=f"rotated {bits} {values}" + (" residual" if residual else ""),
    )
    return _around(cache)


@once
def turned(
    make: Callable[[Callable[[jax.Array], QTensor]], KVCache],
    *,
    bits: int = 4,
    scale: str = "bfloat16",
) -> KVCache:
    """Tokens turned and rounded as rotated has them, in another cache: make(encode) is one that
    evicts, say: turned(lambda encode: evict(h2o(), 512, encode=encode)). Scores are of products
    and norms, which the rotation leaves as they are."""
    if bits not in BITS:
        raise UnsupportedInput(f"expected bits of {BITS}, got {bits!r}; 4 is usual")
    cache = make(functools.partial(_encode, normal(bits, scale)))
    return _around(cache._replace(name=f"{cache.name}, turned {bits}"))


def _around(cache: KVCache) -> KVCache:
    """The cache, of queries, keys and values that are turned."""

    def append(state, k, v, *, queries=None, lengths=None):
        check_array("k", k)
        check_array("v", v)
        if queries is not None:
            check_array("q", queries)
            queries = rotate(queries)
        return cache.append(state, rotate(k), rotate(v), queries=queries, lengths=lengths)

    def attend(state, q, *, rope=None, fresh=None):
        if rope is not None:
            raise UnsupportedInput(
                "expected keys that are in their positions' rotation already, got rope=; apply it "
                "before append"
            )
        for name, x in (("q", q), *(("fresh keys and values", x) for x in fresh or ())):
            check_array(name, x)
        fresh = None if fresh is None else tuple(map(rotate, fresh))
        out, state = cache.attend(state, rotate(q), fresh=fresh)
        return rotate(out, inverse=True), state

    return compiled(KVCache(cache.init, append, attend, cache.name))


def rotate(
    x: Float[Array, "*rows size"],
    *,
    inverse: bool = False,
    key: tuple[int, int] = ROTATION_KEY,
) -> Float[Array, "*rows size"]:
    """x R, or x R^T: the same rotation for every x of a size, everywhere and always."""
    bits, _ = random_bits(key, np.arange(x.shape[-1], dtype=np.uint32))
    signs = 1.0 - 2.0 * (bits >> 31)
    return hadamard.run(x, signs=signs, inverse=inverse, key=key)


@functools.cache
def normal(bits: int, scale: str = "bfloat16") -> Format:
    """The levels of least squared error for a normal variable of variance 1 (Lloyd; Max, 1960).

    Each is the mean of what is nearest to it: by Newton's method, in a few steps.
    """
    count = 1 << bits
    levels = stats.norm.ppf((np.arange(count) + 0.5) / count)
    moved = np.inf
    while moved > TOLERANCE:
        edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        density, mass = stats.norm.pdf(edges), np.diff(stats.norm.cdf(edges))
        means = -np.diff(density) / mass
        # Means follow their edges; an edge, the levels at both sides, by half.
        bands = np.zeros((3, count))
        bands[0, 1:] = density[1:-1] * (means[:-1] - edges[1:-1]) / mass[:-1] / 2
        bands[2, :-1] = density[1:-1] * (edges[1:-1] - means[1:]) / mass[1:] / 2
        bands[1] = 1 + np.roll(bands[0], -1) + np.roll(bands[2], 1)
        new = levels + linalg.solve_banded((1, 1), bands, means - levels)
        new = (new - new[::-1]) / 2  # symmetric to the last digit
        moved, levels = np.abs(new - levels).max(), new
    table = tuple(float(np.float32(level)) for level in levels)
    return Format(bits, table=table, scale=scale, name=f"normal{bits}")


def _encode(format: Format, x: jax.Array) -> QTensor:
    """Rows of the last axis, each under its root mean square."""
    matrix, place = to_matrix(x.astype(jnp.float32), (-1,))
    scales = jnp.sqrt(jnp.square(matrix).mean(1, keepdims=True))
    return from_groups(matrix, format, scales=scales, dtype=x.dtype).placed(place)


def _encode_signed(format: Format, x: jax.Array) -> Signed:
    """_encode, and the signs of what it leaves."""
    x = x.astype(jnp.float32)
    levels = _encode(format, x)
    left = rotate(x - levels.dense(), key=RESIDUAL_KEY)
    size = jnp.abs(left).sum(-1, keepdims=True)
    step = jnp.square(left).sum(-1, keepdims=True) / jnp.where(size > 0, size, 1.0)
    more = [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % 8)]
    signs = jnp.pad((left > 0).astype(jnp.uint8), more)
    return Signed(levels, packing.pack(signs, 1, axis=-1, tile=8), step.astype(format.scale))


def _decode_signed(parts: Signed) -> jax.Array:
    x = parts.levels.dense()
    signs = packing.unpack(parts.signs, 1, axis=-1, tile=8)[..., : x.shape[-1]]
    left = (2.0 * signs - 1.0) * parts.step.astype(jnp.float32)
    return x + rotate(left, inverse=True, key=RESIDUAL_KEY)
