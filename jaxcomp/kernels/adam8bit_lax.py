"""The rules of adam8bit, its step on blocks, and the step on whole arrays in plain lax.

The step is what kernels run too, on what they have loaded.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcomp.kernels.dynamic_map import Map, decode, encode

LARGEST = 2.0**125  # its reciprocal is a float that processors do not take for zero

# rule(g, moments, numbers) -> update, moments. Of numbers each moment has two first: it becomes
# the one times itself and the other times what the rule takes of g.
Rule = Callable[..., tuple[jax.Array, tuple[jax.Array, ...]]]


class Moment(NamedTuple):
    """codes u8[*lead, n], or [*lead, n / 2] of 4 bits; scales f32[*lead, n / block].

    A byte of two codes has those of entries half a block apart, the first in its low bits.
    """

    codes: jax.Array
    scales: jax.Array


def adam(g, moments, numbers):
    """numbers: b1, 1 - b1, b2, 1 - b2; of m and g above, of v below; eps_root, eps."""
    m, v = moments
    b1, c1, b2, c2, of_m, of_g, of_v, eps_root, eps = numbers
    m, v = b1 * m + c1 * g, b2 * v + c2 * (g * g)
    return (of_m * m + of_g * g) / (jnp.sqrt(of_v * v + eps_root) + eps), (m, v)


def lion(g, moments, numbers):
    """numbers: b2, 1 - b2, b1, 1 - b1."""
    (m,) = moments
    b2, c2, b1, c1 = numbers
    ahead = b1 * m + c1 * g
    sign = jnp.where(ahead > 0, 1.0, jnp.where(ahead < 0, -1.0, 0.0))
    return sign, (b2 * m + c2 * g,)


def momentum(g, moments, numbers):
    """numbers: decay, 1; of the momentum and of g in the update."""
    (m,) = moments
    decay, one, of_m, of_g = numbers
    m = decay * m + one * g
    return of_m * m + of_g * g, (m,)


NUMBERS = {adam: 9, lion: 4, momentum: 4}


def reference(
    g: jax.Array,
    numbers: jax.Array,
    *arrays: jax.Array,
    rule: Rule,
    maps: tuple[Map, ...],
    block: int,
) -> tuple[jax.Array, ...]:
    """What the kernels compute, in plain lax."""
    shape = g.shape
    split = lambda x: x.reshape(*x.shape[:-1], -1, x.shape[-1] * block // shape[-1])  # noqa: E731
    moments = [
        Moment(split(codes), scales[..., None]) for codes, scales in moments_of(arrays)
    ]  # [*lead, blocks, bytes of a block], [*lead, blocks, 1]
    halves = 2 if any(map.bits == 4 for map in maps) else 1
    moments = [
        Moment(jnp.split(m.codes, 1 if map.bits == 4 else halves, -1), m.scales)
        for m, map in zip(moments, maps, strict=True)
    ]
    updates, moments = step(rule, maps, jnp.split(split(g), halves, -1), moments, list(numbers))
    results = [jnp.concatenate(updates, -1).reshape(shape)]
    for old, (codes, scales) in zip(moments_of(arrays), moments, strict=True):
        results += [jnp.concatenate(codes, -1).reshape(old.codes.shape), scales[..., 0]]
    return tuple(results)


def step(rule, maps, g, moments, numbers):
    """The step on parts of blocks: g a list of [..., width], codes of each moment too.

    The parts are one, or two where a moment has 4 bits: its byte holds a code of each, in one part.
    scales [..., 1] are those of whole blocks. Returns updates like g, and moments.
    """
    held = [
        [codes.astype(jnp.int32) for codes in m.codes]
        if map.bits == 8
        else [m.codes[0].astype(jnp.int32) & 15, m.codes[0].astype(jnp.int32) >> 4]
        for m, map in zip(moments, maps, strict=True)
    ]
    updates, found = [], []
    for i, part in enumerate(g):
        values = tuple(
            decode(codes[i], map) * m.scales
            for codes, m, map in zip(held, moments, maps, strict=True)
        )
        update, values = rule(part.astype(jnp.float32), values, numbers)
        fits = functools.reduce(jnp.logical_and, (jnp.abs(x) <= LARGEST for x in values))
        updates.append(jnp.where(fits, update, jnp.nan))
        found.append(values)
    # The largest magnitude, inf where any entry is not to be held: a maximum may pass over NaN.
    most = [
        functools.reduce(jnp.maximum, (magnitude(x).max(-1, keepdims=True) for x in parts))
        for parts in zip(*found, strict=True)
    ]
    good = functools.reduce(jnp.logical_and, (x <= LARGEST for x in most))
    results = []
    for j, (moment, map) in enumerate(zip(moments, maps, strict=True)):
        inverse, scales = new_scale(most[j], good, moment.scales)
        codes = [
            jnp.where(good, encode(values[j] * inverse, map), old)
            for values, old in zip(found, held[j], strict=True)
        ]
        if map.bits == 4:
            codes = [codes[0] | codes[1] << 4]
        results.append(Moment([x.astype(jnp.uint8) for x in codes], scales))
    return updates, results


def magnitude(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.abs(x) <= LARGEST, jnp.abs(x), jnp.inf)


def moments_of(arrays) -> tuple[Moment, ...]:
    return tuple(map(Moment, arrays[::2], arrays[1::2]))


def new_scale(most, good, old):
    """What a block is multiplied by to become codes, NaN if it keeps them, and its scale."""
    tiny = most < 1 / LARGEST
    inverse = 1 / jnp.where(good, jnp.where(tiny, jnp.inf, most), jnp.nan)
    return inverse, jnp.where(good, jnp.where(tiny, 0, most), old)
