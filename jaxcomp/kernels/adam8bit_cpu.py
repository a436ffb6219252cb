"""The step of adam8bit for CPUs: what the reference computes, as walks over whole arrays.

A walk is a loop over all cores that decodes, and applies the rule, anew: one to the largest
magnitudes of blocks, one to all codes, and one to the update and whatever elementwise is done with
it behind. Moments in float32 never reach memory, nor does the update if something takes it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcomp.kernels.adam8bit_lax import LARGEST, Rule, moments_of, new_scale
from jaxcomp.kernels.dynamic_map import encode, look_up
from jaxcomp.kernels.together import together
from jaxcomp.kernels.written import written

CACHED = 1 << 18  # entries whose moments in float32 a CPU rather keeps at hand than decodes again
FINITE = np.finfo(np.float32).max


def cpu(g: jax.Array, numbers: jax.Array, *arrays: jax.Array, rule: Rule, maps, block: int):
    """See above. Blocks have parts as in `adam8bit_lax.step`, along an axis here.

    Codes of 4 bits are copied to bytes in the order of entries: walks in that order would else
    read them one by one, in three times the time.
    """
    rows, old, numbers = g.size // block, moments_of(arrays), list(numbers)
    fours = [j for j, map in enumerate(maps) if map.bits == 4]
    parts = 2 if fours else 1
    shape, width, cached = g.shape, block // parts, g.size <= CACHED
    half = lax.broadcasted_iota(jnp.uint8, (1, parts, 1), 1)
    g = g.reshape(rows, parts, width).astype(jnp.float32)
    codes = [x.codes.reshape(rows, -1, width) for x in old]
    scales = [x.scales.reshape(rows, 1, 1) for x in old]

    def nibbles(j, half, codes):
        return codes[j] >> 4 * half & 15

    def applied(g, codes, ordered, scales):
        """The update, and moments in float32."""
        levels = [
            look_up(ordered, map, 4 * fours.index(j)) if j in fours else look_up(codes[j], map)
            for j, map in enumerate(maps)
        ]
        return rule(g, tuple(x * s for x, s in zip(levels, scales, strict=True)), numbers)

    def scaled(part, inverse, g, half, codes, scales):
        """Moments times inverse: what of them is kept and what of g is taken is multiplied by it."""
        levels = [
            look_up(nibbles(j, half[:, part], codes) if j in fours else codes[j][:, part], map)
            for j, map in enumerate(maps)
        ]
        own = []
        for keep, take, x, s in zip(numbers[::2], numbers[1::2], inverse, scales, strict=False):
            own += [jnp.minimum(keep * s * x, FINITE), take * x]
        return rule(g[:, part], tuple(levels), own + numbers[len(own) :])[1]

    ordered = None
    if fours:
        ordered = functools.reduce(
            lambda a, b: a | b << 4, (nibbles(j, half, codes) for j in fours)
        )
        ordered = ordered if cached else written(ordered)
    update, values = applied(g, codes, ordered, scales)
    fits = functools.reduce(jnp.logical_and, (jnp.abs(x) <= LARGEST for x in values))
    update = jnp.where(fits, update, jnp.nan).reshape(shape)
    if not cached:  # a barrier, or XLA would write down what two walks share
        g, codes, ordered, scales = lax.optimization_barrier((g, codes, ordered, scales))
        values = applied(g, codes, ordered, scales)[1]

    def of_rows(most, scales):
        good = functools.reduce(jnp.logical_and, (x <= LARGEST for x in most))
        pairs = [new_scale(x, good, s) for x, s in zip(most, scales, strict=True)]
        return [x for each in zip(*pairs, strict=True) for x in each]

    found = together(of_rows, _largest(values), [x.reshape(rows) for x in scales])
    inverse = [x.reshape(rows, 1, 1) for x in found[: len(maps)]]

    def coded(js, inverse, values, *inputs):
        """Codes of moments of as many bits."""
        cuts = [slice(0, 1), slice(1, 2)] if js == fours else [slice(None)]
        if cached:
            ways = [[x[:, cut] * y for x, y in zip(values, inverse, strict=True)] for cut in cuts]
        else:
            ways = [scaled(cut, inverse, *inputs) for cut in cuts]
        for j in js:
            new = [encode(x[j], maps[j]).astype(jnp.uint8) << 4 * i for i, x in enumerate(ways)]
            new = functools.reduce(jnp.bitwise_or, new)
            yield jnp.where(jnp.isnan(inverse[j]), inputs[2][j], new)

    if not cached:
        values, inputs = None, lax.optimization_barrier((g, half, codes, scales))
    else:
        inputs = g, half, codes, scales
    eights = [j for j in range(len(maps)) if j not in fours]
    results = {}
    for js in filter(None, (eights, fours)):
        walk = functools.partial(lambda js, *trees: list(coded(js, *trees)), js)
        results |= zip(js, together(walk, inverse, values, *inputs), strict=True)
    return update, *(
        x
        for j, moment in enumerate(old)
        for x in (
            results[j].reshape(moment.codes.shape),
            found[len(maps) + j].reshape(moment.scales.shape),
        )
    )


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
