"""KVQuant: keys before their positions, by channel, to levels that calibration has chosen.

    key = offset_c + scale_c * level[code],     value = offset_t + scale_t * level[code]

c is a channel: before the rotation of its position a key is large in the same channels at every
token, so their thresholds hold for tokens to come; pass rope= to attend. t is a token. Levels are a
table of each layer for keys and one for values, by k-means with weights. Of every token the entries
of its key that are farthest from the middle of their channel, and the largest and the smallest of
its value, are kept apart in 16 bits. The first tokens stay as they are.

At 2 bits levels are few and near the middle: Q-Norm moves the table so that what is read has the
mean and the deviation of what was written, at no cost.

Hooper et al., KVQuant, NeurIPS 2024, sections 3.1 to 3.6. We differ: every head of a token keeps as
many entries apart, so that shapes are static (the paper's cap counts those of all heads), and the
levels are those of all others, some of which lie beyond the thresholds: what is kept apart is what
levels leave. The paper's weights are squared gradients; without any, all errors count alike.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcomp.base import KVCache, UnsupportedInput
from jaxcomp.formats.format import Format, padded_size, with_tile
from jaxcomp.formats.k_means import k_means
from jaxcomp.kernels import packing
from jaxcomp.kvcache.apart import Apart, extremes, largest, put, take
from jaxcomp.kvcache.chunked import chunked
from jaxcomp.kvcache.once import once

STEPS = 50  # of Lloyd's, as in the paper
LEAST = 1e-6  # of scales: a channel that never changes has none


class Levels(NamedTuple):
    """edges f32[levels - 1] between the codes, and the values f32[levels] that they are read as."""

    edges: jax.Array
    values: jax.Array


class Tables(NamedTuple):
    """Of one layer; offset and scale f32[heads, size] of the keys' channels, levels of both."""

    offset: jax.Array
    scale: jax.Array
    keys: Levels
    values: Levels


class Parts(NamedTuple):
    """codes u8[..., packed], the rest for values: offset and scale bf16[..., 1] of a token."""

    codes: jax.Array
    apart: Apart | None
    offset: jax.Array | None = None
    scale: jax.Array | None = None


@once
def kvquant(slots: int, tables: Tables, *, outliers: float = 0.01, sinks: int = 1) -> KVCache:
    """A cache of one layer, whose tables kvquant_tables made with the same outliers.

    The tables are held once, beside all states, and are no part of their bytes. They may be traced:
    build the cache inside of scan over layers, or of shard_map over heads. At `bits` a key takes
    bits + 24 * outliers bits an entry, a value bits + 32 / size + 24 * outliers.
    """
    _check_share(outliers)
    options = {"outliers": outliers}
    return chunked(
        slots,
        functools.partial(_encode_keys, tables, **options),
        functools.partial(_encode_values, tables.values, **options),
        decode_keys=functools.partial(_decode_keys, tables),
        decode_values=functools.partial(_decode_values, tables),
        sinks=sinks,
        name=f"kvquant {len(tables.keys.values)} levels",
    )


def kvquant_tables(
    keys: Float[Array, "batch tokens heads size"],
    values: Float[Array, "batch tokens heads size"],
    *,
    bits: int = 3,
    outliers: float = 0.01,
    weights: tuple[jax.Array, jax.Array] | None = None,
    norm: bool | None = None,
) -> Tables:
    """The tables of one layer, of some of its keys, as they are before their positions, and values.

    outliers  the share of entries that lies beyond thresholds, and is kept apart
    weights   what a squared error costs in each entry of keys and of values, as a squared gradient
    norm      whether to keep mean and deviation (Q-Norm): by default at up to 2 bits, as the paper
    """
    _check_share(outliers)
    if type(bits) is not int or not 1 <= bits <= 4:
        raise UnsupportedInput(f"expected bits of 1 to 4, got {bits!r}; 3 is usual")
    norm = bits <= 2 if norm is None else norm
    weights = (jnp.ones(keys.shape), jnp.ones(values.shape)) if weights is None else weights
    return _fit(keys, values, tuple(weights), bits, outliers, norm)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _fit(keys, values, weights, bits, outliers, norm):
    keys, values = (x.astype(jnp.float32) for x in (keys, values))
    low, high = jnp.quantile(keys, jnp.array([outliers / 2, 1 - outliers / 2]), axis=(0, 1))
    offset, scale = (high + low) / 2, jnp.maximum((high - low) / 2, LEAST)
    z = (keys - offset) / scale
    inside = ~_beyond(z, outliers)
    of_keys = levels(z, jnp.where(inside, weights[0] * scale**2, 0.0), bits, norm)
    z, inside, _, scale_t = _by_token(values, outliers)
    of_values = levels(z, jnp.where(inside, weights[1] * scale_t**2, 0.0), bits, norm)
    return Tables(offset, scale, of_keys, of_values)


def levels(
    z: Float[Array, "*shape"], weights: Float[Array, "*shape"], bits: int, norm: bool
) -> Levels:
    """The table of least squared error, weights on each entry; 0 leaves it out.

    norm: read as (value - mean of read) * deviation / deviation of read + mean, over the entries
    that are not left out (section 3.6 and appendix).
    """
    flat, weights = z.reshape(-1, 1), weights.reshape(-1, 1)
    values = jnp.sort(k_means(flat, weights, 1 << bits, steps=STEPS)[:, 0])
    edges = (values[1:] + values[:-1]) / 2
    if norm:
        there = weights[:, 0] > 0
        written, read = flat[:, 0], _read(values, _codes(flat[:, 0], edges))
        (mean, deviation), (other, spread) = (_moments(x, there) for x in (written, read))
        values = (values - other) * deviation / jnp.maximum(spread, LEAST) + mean
    return Levels(edges, values)


def _moments(x: jax.Array, there: jax.Array) -> tuple[jax.Array, jax.Array]:
    count = jnp.maximum(there.sum(), 1)
    mean = jnp.where(there, x, 0.0).sum() / count
    return mean, jnp.sqrt(jnp.where(there, (x - mean) ** 2, 0.0).sum() / count)


def _codes(z: jax.Array, edges: jax.Array) -> jax.Array:
    """u8: how many edges lie below."""
    return (z[..., None] > edges).sum(-1, dtype=jnp.uint8)


def _read(values: jax.Array, codes: jax.Array) -> jax.Array:
    """The value of each code: comparisons fuse, and a gather does not."""
    return jnp.where(codes[..., None] == jnp.arange(len(values)), values, 0.0).sum(-1)


def _packed(codes: jax.Array, count: int) -> jax.Array:
    format, size = _format(count), codes.shape[-1]
    format = with_tile(format, size)
    room = -(-padded_size(size, format) // format.tile) * format.tile
    codes = jnp.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, room - size)])
    return packing.pack(codes, format.bits, axis=-1, tile=format.tile)


def _unpacked(codes: jax.Array, count: int, size: int) -> jax.Array:
    format = with_tile(_format(count), size)
    return packing.unpack(codes, format.bits, axis=-1, tile=format.tile)[..., :size]


def _format(count: int) -> Format:
    return Format((count - 1).bit_length())


def _encode_keys(tables: Tables, x: jax.Array, *, outliers: float) -> Parts:
    """x [batch, heads, chunks, 1, size]."""
    x = x.astype(jnp.float32)
    offset, scale = (part[:, None, None] for part in (tables.offset, tables.scale))
    z = (x - offset) / scale
    codes = _codes(z, tables.keys.edges)
    apart = None
    if outliers:
        left = x - (_read(tables.keys.values, codes) * scale + offset)
        apart = take(left, _beyond(z, outliers), _count(outliers, x.shape[-1]), axis=-1)
    return Parts(_packed(codes, len(tables.keys.values)), apart)


def _decode_keys(tables: Tables, parts: Parts) -> jax.Array:
    size = tables.offset.shape[-1]
    offset, scale = (part[:, None, None] for part in (tables.offset, tables.scale))
    codes = _unpacked(parts.codes, len(tables.keys.values), size)
    return _with(_read(tables.keys.values, codes) * scale + offset, parts.apart)


def _count(outliers: float, size: int) -> int:
    return max(1, round(outliers * size)) if outliers else 0


def _beyond(z: jax.Array, outliers: float) -> jax.Array:
    """Where the entries are that a key keeps apart."""
    return largest(jnp.abs(z), _count(outliers, z.shape[-1]), axis=-1)


def _by_token(x: jax.Array, outliers: float) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(z, where it is no outlier, offset and scale [..., 1]) of values, thresholds their own."""
    each = max(1, round(outliers * x.shape[-1] / 2)) if outliers else 0
    inside = ~extremes(x, each, axis=-1)
    low = jnp.where(inside, x, jnp.inf).min(-1, keepdims=True)
    high = jnp.where(inside, x, -jnp.inf).max(-1, keepdims=True)
    offset, scale = (high + low) / 2, jnp.maximum((high - low) / 2, LEAST)
    offset, scale = (part.astype(jnp.bfloat16).astype(jnp.float32) for part in (offset, scale))
    return (x - offset) / scale, inside, offset, scale


def _encode_values(table: Levels, x: jax.Array, *, outliers: float) -> Parts:
    x = x.astype(jnp.float32)
    z, inside, offset, scale = _by_token(x, outliers)
    codes = _codes(z, table.edges)
    apart = None
    if outliers:
        count = 2 * max(1, round(outliers * x.shape[-1] / 2))
        apart = take(x - (_read(table.values, codes) * scale + offset), ~inside, count, axis=-1)
    kept = (part.astype(jnp.bfloat16) for part in (offset, scale))
    return Parts(_packed(codes, len(table.values)), apart, *kept)


def _decode_values(tables: Tables, parts: Parts) -> jax.Array:
    values = tables.values.values
    codes = _unpacked(parts.codes, len(values), tables.offset.shape[-1])
    offset, scale = (part.astype(jnp.float32) for part in (parts.offset, parts.scale))
    return _with(_read(values, codes) * scale + offset, parts.apart)


def _with(x: jax.Array, apart: Apart | None) -> jax.Array:
    return x if apart is None else x + put(apart, x.shape[-1], axis=-1)


def _check_share(outliers: float) -> None:
    if not 0 <= outliers <= 0.1:
        raise UnsupportedInput(f"expected outliers from 0 to 0.1, got {outliers}; 0.01 is usual")
