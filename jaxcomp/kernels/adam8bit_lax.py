"""The rules of adam8bit, its step on blocks, and the step on whole arrays in plain lax.

The step is what kernels run too, on what they have loaded.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.kernels.dynamic_map import Map, decode, encode, look_up
from jaxcomp.kernels.written import written

LARGEST = 2.0**125  # its reciprocal is a float that processors do not take for zero
CACHED = 1 << 18  # entries whose moments in float32 a CPU rather keeps at hand than decodes again

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
    """numbers: b1, 1 - b1, b2, 1 - b2."""
    (m,) = moments
    b1, c1, b2, c2 = numbers
    ahead = b1 * m + c1 * g
    sign = jnp.where(ahead > 0, 1.0, jnp.where(ahead < 0, -1.0, 0.0))
    return sign, (b2 * m + c2 * g,)


def momentum(g, moments, numbers):
    """numbers: decay; of the momentum and of g in the update."""
    (m,) = moments
    decay, of_m, of_g = numbers
    m = decay * m + g
    return of_m * m + of_g * g, (m,)


NUMBERS = {adam: 9, lion: 4, momentum: 3}


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
        inverse, scales = _scale(most[j], good, moment.scales)
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


def cpu(g: jax.Array, numbers: jax.Array, *arrays: jax.Array, rule: Rule, maps, block: int):
    """What the reference computes, as whole arrays that XLA walks once for each result.

    A walk is one loop over all cores that decodes, and applies the rule, anew: first to the largest
    magnitudes, then to the update (and to all that is done with it behind), then to the codes of
    each moment. Moments in float32 never reach memory, nor does the update if something elementwise
    takes it. Barriers keep walks apart, as XLA would else write down what two of them share: it may
    for arrays that stay in the cache.

    Codes are copied first: nothing puts their last reader, the walk behind the update, before the
    walks that write them in place. XLA would copy too, on one core. The two codes of a byte, whose
    entries are half a block apart, are also copied to bytes in the order of entries: walks in that
    order would else read them one by one, in three times the time.

    Of 8 Mi entries and two moments of 8 bits, two cores (Zen 5, XLA's vectors of 256 bits) take 0.6
    ms to copy, 1.8 for maxima, 1.9 for the update, 2.8 and 2.4 for codes; with levels and codes
    left out, all walks 5.1 (Adam in float32: 5.0). A walk for codes is bound by latency: 22 cycles
    for 8 entries, where the levels alone take 8 and `encode` alone 12. Not faster were: levels by
    arithmetic, codes by a table of float bits, both codes in one loop, and slabs in the cache, some
    of whose loops XLA runs on one core.
    """
    if g.size > CACHED:
        arrays = [written(x) if x.dtype == jnp.uint8 else x for x in arrays]
    rows, old = g.size // block, moments_of(arrays)
    parts = 2 if any(map.bits == 4 for map in maps) else 1  # as in `reference`
    width = block // parts
    half = lax.broadcasted_iota(jnp.uint8, (1, parts, 1), 1)

    def nibbles(codes, part=slice(None)):
        return codes.reshape(rows, 1, width) >> 4 * half[:, part] & 15

    def walk(inputs, part=slice(None), ordered=None):
        """update and moments [rows, parts, block / parts], or those of one of the parts."""
        g, *arrays = inputs
        cut = lambda x: x.reshape(rows, parts, width)[:, part]  # noqa: E731
        values, shift = [], 0
        for moment, map in zip(moments_of(arrays), maps, strict=True):
            if map.bits == 8:
                levels = look_up(cut(moment.codes), map)
            elif ordered is None:
                levels = look_up(nibbles(moment.codes, part), map)
            else:
                levels, shift = look_up(ordered, map, shift), shift + 4
            values.append(levels * moment.scales.reshape(rows, 1, 1))
        return rule(cut(g).astype(jnp.float32), tuple(values), list(numbers))

    ordered, apart = None, tuple
    if g.size > CACHED:
        apart = lax.optimization_barrier
        fours = [nibbles(x.codes) for x, map in zip(old, maps, strict=True) if map.bits == 4]
        if fours:
            ordered = written(functools.reduce(lambda a, b: a | b << 4, fours))
    update, values = walk((g, *arrays), ordered=ordered)
    fits = functools.reduce(jnp.logical_and, (jnp.abs(x) <= LARGEST for x in values))
    results = [jnp.where(fits, update, jnp.nan).reshape(g.shape)]
    inputs = apart((g, *arrays))
    most = _largest(walk(inputs, ordered=None if ordered is None else apart(ordered))[1])
    good = functools.reduce(jnp.logical_and, (x <= LARGEST for x in most))
    for j, (moment, map) in enumerate(zip(old, maps, strict=True)):
        inputs = apart(inputs)
        inverse, scales = _scale(most[j], good, moment.scales.reshape(rows))

        def of(part, j=j, map=map, inverse=inverse[:, None, None], inputs=inputs):
            return encode(walk(inputs, part)[1][j] * inverse, map)

        codes = of(slice(None)) if map.bits == 8 else of(slice(0, 1)) | of(slice(1, 2)) << 4
        held = moment.codes.reshape(codes.shape)
        codes = jnp.where(inverse[:, None, None] >= 0, codes.astype(jnp.uint8), held)
        results += [codes.reshape(moment.codes.shape), scales.reshape(moment.scales.shape)]
    return tuple(results)


def _largest(values):
    """The largest magnitude of each row of [rows, parts, width]; of one with NaN, NaN or inf.

    Magnitudes are in the order of their bits, whose maximum is one instruction. One reduction has
    the rows of two arrays: of a single one XLA makes others that read it from memory.
    """
    bits = [lax.bitcast_convert_type(jnp.abs(x), jnp.int32) for x in values]
    pair = tuple(bits if len(bits) == 2 else bits * 2)
    zeros = (jnp.zeros((), jnp.int32),) * 2
    most = lax.reduce(pair, zeros, lambda a, b: tuple(map(lax.max, a, b)), (1, 2))
    most = most if len(bits) == 2 else [lax.max(*most)]
    return [lax.bitcast_convert_type(x, jnp.float32) for x in most]


def _scale(most, good, old):
    """What a block is multiplied by to become codes, NaN if it keeps them, and its scale."""
    tiny = most < 1 / LARGEST
    inverse = 1 / jnp.where(good, jnp.where(tiny, jnp.inf, most), jnp.nan)
    return inverse, jnp.where(good, jnp.where(tiny, 0, most), old)
