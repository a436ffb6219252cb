"""The step of adam8bit for CPUs: what the reference computes, slab by slab.

A slab is so small that its moments in float32 stay in the cache: a loop for each decodes it and
applies the rule, one finds the largest magnitudes, one encodes. Loops that do less are faster, as
processors overlap entries of short chains only, and prefetch best for one array that is written.
The update is a loop over the whole leaf, with whatever elementwise is done behind: it decodes and
applies the rule again, and never reaches memory. Gradients do, where they are not there yet.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.kernels.adam8bit_lax import LARGEST, Rule, moments_of, new_scale
from jaxcomp.kernels.dynamic_map import encode, look_up
from jaxcomp.kernels.halves import halves, whole
from jaxcomp.kernels.together import together
from jaxcomp.kernels.written import written

SLAB = 400_000  # entries; not a power of 2: arrays that far apart share few lines of a cache


def cpu(g: jax.Array, numbers: jax.Array, *arrays: jax.Array, rule: Rule, maps, block: int):
    """What `adam8bit_lax.reference` returns. Blocks have the parts of `step`, along an axis here.

    Old codes are copied before new ones take their place: nothing puts the update before them. A
    copy of 4 bits has bytes in the order of entries, with the codes of all moments: loops in that
    order would else read them one by one, in three times the time.
    """
    rows, old, numbers = g.size // block, moments_of(arrays), list(numbers)
    fours = [j for j, map in enumerate(maps) if map.bits == 4]
    parts = 2 if fours else 1
    shape, width, slabs = g.shape, block // parts, -(-g.size // SLAB)
    g = g.reshape(rows, parts, width)
    held = [x.codes.reshape(rows, 1 if j in fours else parts, width) for j, x in enumerate(old)]
    copied = written if slabs > 1 else lambda x: x
    copies = [copied(x) for j, x in enumerate(held) if j not in fours]
    if fours:
        half = lax.broadcasted_iota(jnp.uint8, (1, parts, 1), 1)
        each = [held[j] >> 4 * half & 15 for j in fours]
        copies.append(copied(functools.reduce(lambda a, b: a | b << 4, each)))
    scales = [x.scales.reshape(rows, 1, 1) for x in old]

    def levels(copies):
        found, eights = [], iter(copies)
        for j, map in enumerate(maps):
            if j in fours:
                found.append(look_up(copies[-1], map, 4 * fours.index(j)))
            else:
                found.append(look_up(next(eights), map))
        return found

    def updated(g, copies, scales):
        values = tuple(x * s for x, s in zip(levels(copies), scales, strict=True))
        update, values = rule(_float32(g), values, numbers)
        fits = functools.reduce(jnp.logical_and, (jnp.abs(x) <= LARGEST for x in values))
        return jnp.where(fits, update, jnp.nan)

    def moved(j, g, copies, scales):
        """Moment j, where scales multiply what is kept, the first of each moment's two numbers."""
        pairs = zip(scales, numbers[::2], numbers[1::2], strict=False)
        own = [x for scale, keep, take in pairs for x in (keep * scale, take)]
        values = tuple(levels(copies))
        return rule(_float32(g), values, own + numbers[len(own) :])[1][j]

    def stepped(g, copies, scales, held):
        """codes and scales of some rows"""
        every = range(len(maps))
        values = [halves(functools.partial(moved, j), g, copies, scales) for j in every]
        most = _largest([whole(x, jnp.zeros(()), 3) for x in values])
        found = together(_of_rows, most, [x.reshape(-1) for x in scales])
        inverse, scales = ([x.reshape(-1, 1, 1) for x in found[i::2]] for i in range(2))
        codes = {}
        for bits in {map.bits for map in maps}:
            js = [j for j in every if maps[j].bits == bits]
            of = ([x[j] for j in js] for x in (maps, values, inverse, held))
            codes |= zip(js, together(functools.partial(_coded, next(of)), *of), strict=True)
        return [codes[j] for j in every], scales

    update = updated(g, copies, scales)
    if g.dtype == jnp.bfloat16:  # as bits, or XLA would make all of it float32 before the loop
        g = lax.bitcast_convert_type(g, jnp.uint16)
    inputs = lax.optimization_barrier((g, copies, scales))
    if slabs <= 1:
        codes, scales = stepped(*inputs, held)
    else:
        take = -(-rows // slabs)
        slabs = -(-rows // take)

        def turn(i, new):  # the last slab begins early and computes some rows twice
            start = jnp.minimum(i * take, rows - take)
            at = lambda x: lax.dynamic_slice_in_dim(x, start, take)  # noqa: E731
            found = stepped(*jax.tree.map(at, (*inputs, new[0])))
            put = lambda x, y: lax.dynamic_update_slice_in_dim(x, y, start, 0)  # noqa: E731
            return jax.tree.map(put, new, found)

        codes, scales = lax.fori_loop(0, slabs, turn, (held, scales))
    pairs = zip(old, codes, scales, strict=True)
    results = [(x.reshape(o.codes.shape), s.reshape(o.scales.shape)) for o, x, s in pairs]
    return update.reshape(shape), *(x for pair in results for x in pair)


def _float32(g):
    if g.dtype != jnp.uint16:
        return g.astype(jnp.float32)
    return lax.bitcast_convert_type(g.astype(jnp.uint32) << 16, jnp.float32)


def _of_rows(most, scales):
    """inverse and new scale of each moment"""
    good = functools.reduce(jnp.logical_and, (x <= LARGEST for x in most))
    pairs = zip(most, scales, strict=True)
    return [x for m, scale in pairs for x in new_scale(m, good, scale)]


def _coded(maps, values, inverse, held):
    """New codes of moments of as many bits."""
    for x, scale, old, map in zip(values, inverse, held, maps, strict=True):
        new = encode(whole(x, scale, 3) * scale, map).astype(jnp.uint8)
        new = new if map.bits == 8 else new[:, :1] | new[:, 1:] << 4
        yield jnp.where(jnp.isnan(scale), old, new)


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
