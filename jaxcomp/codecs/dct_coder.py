"""The two programs that walk through the planes: one chooses integers and tables, one reads them.

The encoder decides every magnitude when its table is known, and the table follows from what was
decided before, so rates are exact: of {nearest, one less, 0} it takes the least

    (|c| / step - magnitude)**2 + LAMBDA * bits

Means (u = v = 0) are rounded first and coded losslessly as differences to a prediction from means
around (hierarchy in dct_geometry).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int32, UInt8

from jaxcomp import coding
from jaxcomp.coding.stream import Stream
from jaxcomp.coding.tables import Tables

from . import dct_context as context
from . import dct_transform as transform
from .dct_context import CERTAIN, CODING_ORDER, PLANES, Network
from .dct_geometry import Geometry
from .dct_symbols import EDGES, EXTRA, LARGEST

# Modes are coded with tables after the certain one: STEP_CLASSES tables of whether a superblock is
# one 32-block, then as many of the mode of a cell in any other.
STEP_CLASSES = 6
WHOLE_TABLE = CERTAIN + 1
MODE_TABLE = WHOLE_TABLE + STEP_CLASSES
TABLES = MODE_TABLE + STEP_CLASSES
MEAN_LIMIT = 1 << 13
STEP_BITS = 4  # steps are integers in 1/16


class Model(NamedTuple):
    """Everything that is learned, as integers, and what the encoder derives from it.

    network      the integers that choose tables
    tables       the rANS tables
    bits         f32[TABLES, 24], cost of each symbol with its sign and raw bits
    offsets      [TABLES, 3], where magnitudes 1, 2 and more are reconstructed (dct_synthesis)
    weights      [STEP_CLASSES, 2, taps, thresholds, places + textures] of the filter (dct_filter)
    """

    network: Network
    tables: Tables
    bits: Float[Array, "tables symbols"]
    offsets: np.ndarray
    weights: np.ndarray


class Choices(NamedTuple):
    """What the encoder chose for one tile; rows are planes in coding order.

    modes      i32[capacity], as transform.MODES counts them
    mode_symbols, mode_index    i32[5 / 4 capacity], how they are coded
    planes     bool[PLANES], coded or all zero, in coding order
    values     i32[PLANES, capacity]; of means, differences to their prediction
    symbols    u8[PLANES, capacity]
    index      i32[PLANES, capacity], the tables
    bits       f32, sum of all ideal code lengths
    """

    modes: Int32[Array, " capacity"]
    mode_symbols: Int32[Array, " m"]
    mode_index: Int32[Array, " m"]
    planes: Bool[Array, " planes"]
    values: Int32[Array, "planes capacity"]
    symbols: UInt8[Array, "planes capacity"]
    index: Int32[Array, "planes capacity"]
    bits: Float[Array, ""]


def step_class(step: Int32[Array, ""]) -> Int32[Array, ""]:
    """0 .. STEP_CLASSES - 1, one per octave; 0 below 16, the last from 256."""
    return jnp.clip(28 - lax.clz(step >> STEP_BITS | 1), 0, STEP_CLASSES - 1)


def predict_means(means, geometry: Geometry, xp=jnp):
    """Each mean from the known ones around: of two opposite pairs the more alike counts more.

    means: integers [capacity], at most MEAN_LIMIT; xp: jax.numpy or numpy, the same integers.
    """
    padded = xp.concatenate([means, xp.zeros(1, means.dtype)])
    absent = [source == means.shape[0] for source in geometry.sources]
    values = [padded[source] for source in geometry.sources]
    # One of a pair may be missing: the other stands for both.
    a, b, c, d = (xp.where(absent[i], values[i ^ 1], values[i]) for i in range(4))
    # |means| <= 2**13: weights at most 2**14, sums below 2 * 2**15 * 2**14.
    first = xp.where(absent[0] & absent[1], 0, abs(c - d) + 1)
    second = xp.where(absent[2] & absent[3], 0, abs(a - b) + 1)
    both = first + second
    return (first * (a + b) + second * (c + d) + both) // xp.maximum(2 * both, 1)


def choose(
    network: Network,
    symbol_cost: Float[Array, "tables symbols"],
    blocks: UInt8[Array, "s 32 32 3"],
    geometry: Geometry,
    step: Int32[Array, ""],
    rate_weight: Float[Array, ""],
    *,
    trace: bool = False,
) -> Choices:
    """Block sizes, magnitudes and tables for one tile; step in 1/16.

    trace: also return the features of every coefficient, u8[PLANES, features, capacity], and the
    coefficients in units of the step, both in coding order.
    """
    unit = step.astype(jnp.float32) / (1 << STEP_BITS)
    coefficients = transform.forward(transform.to_planes(blocks.astype(jnp.float32)))
    modes = transform.choose_modes(coefficients, unit, jnp.asarray(MODE_BIAS))
    scaled = transform.select(coefficients, modes) / unit
    capacity = geometry.block.shape[0]
    valid = geometry.valid == 1
    scaled = jnp.where(valid, scaled.reshape(capacity, PLANES)[geometry.block].T, 0.0)
    scaled = scaled[CODING_ORDER]
    modes = modes.reshape(capacity)[geometry.block]
    kinds = jnp.stack([modes, geometry.level])
    log_step = context.logarithm(step)
    is_mean = jnp.asarray(CODING_ORDER % 256 == 0)

    def differences(c):
        means = jnp.clip(jnp.rint(c).astype(jnp.int32), -MEAN_LIMIT, MEAN_LIMIT)
        return means - predict_means(means, geometry)

    means = CODING_ORDER % 256 == 0
    exact = jax.vmap(differences)(scaled[means])
    scaled = scaled.at[means].set(jnp.where(valid, exact, 0).astype(jnp.float32))
    coded = (jnp.abs(scaled) > 0.6).any(1)
    first_coded = jnp.stack([coded[256 * c : 256 * (c + 1)] for c in range(3)])[:, :255]
    last = (first_coded * (1 + jnp.arange(255))).max(1)
    position = jnp.arange(256)
    planes = ((position[None] < last[:, None]) | (position == 255)).reshape(-1)

    def visit(maps, o):
        plane = jnp.asarray(CODING_ORDER)[o]
        c = scaled[o]
        known = context.features(maps, plane)
        index = context.classify(network, known, plane, kinds, log_step)
        index = jnp.where(valid & planes[o], index, CERTAIN)
        size = jnp.abs(c)
        nearest = jnp.minimum(jnp.floor(size + 0.5), LARGEST).astype(jnp.int32)

        def cost(m):
            return symbol_cost[index, _symbol(m)]

        less = jnp.maximum(nearest - 1, 0)
        options = jnp.stack([nearest, less, jnp.zeros_like(less)])
        rates = jnp.stack([cost(m) for m in options])
        total = (size - options) ** 2 + rate_weight * rates
        best = jnp.where(is_mean[o] | (nearest == 0), 0, total.argmin(0))
        magnitude = jnp.where(planes[o], lax.select_n(best, *options), 0)
        rate = lax.select_n(best, *rates)
        symbols = _symbol(magnitude).astype(jnp.uint8)
        maps = context.learn(maps, plane, symbols, geometry.neighbours)
        value = jnp.where(c < 0, -magnitude, magnitude)
        out = value, symbols, index, rate.sum()
        return maps, (*out, known.astype(jnp.uint8)) if trace else out

    maps = context.no_maps(capacity)
    _, (values, symbols, index, rate, *known) = lax.scan(visit, maps, jnp.arange(PLANES))
    mode_symbols, mode_index = mode_choices(modes, geometry, step)
    bits = rate.sum() + symbol_cost[mode_index, mode_symbols].sum()
    choices = Choices(modes, mode_symbols, mode_index, planes, values, symbols, index, bits)
    return (choices, known[0], scaled) if trace else choices


# What a finer split must gain, in the unit of transform.choose_modes.
MODE_BIAS = np.array([8.0, 2.0, 5.0, 5.0, 3.0], np.float32)


def _symbol(magnitude):
    """The symbol of a magnitude 0 .. LARGEST, without a table."""
    b = 30 - lax.clz(jnp.maximum(magnitude - 10, 2))
    return jnp.where(magnitude < 12, magnitude, jnp.minimum(12 + b, 23))


def mode_choices(modes, geometry, step):
    """Symbols and tables of the modes: whether each superblock is whole, then its cells' modes."""
    padded = jnp.concatenate([modes, jnp.zeros(1, jnp.int32)])
    present = geometry.members[:, 0] < modes.shape[0]
    whole = present & (padded[geometry.members[:, 0]] == 0)
    kind = step_class(step)
    whole_index = jnp.where(present, WHOLE_TABLE + kind, CERTAIN)
    index = jnp.where((geometry.valid == 1) & (modes > 0), MODE_TABLE + kind, CERTAIN)
    symbols = jnp.concatenate([whole.astype(jnp.int32), jnp.maximum(modes - 1, 0)])
    return symbols, jnp.concatenate([whole_index, index])


def read(
    network: Network,
    tables: Tables,
    stream: Stream,
    geometry: Geometry,
    step: Int32[Array, ""],
    order: Int32[Array, " planes"],
    count: Int32[Array, ""],
):
    """Modes i32[capacity], symbols u8 and tables u16 [PLANES, capacity] by position in `order`, and
    whether the stream ended as it must. order[:count] are positions in the coding order."""
    capacity = geometry.block.shape[0]
    valid = geometry.valid == 1
    kind = step_class(step)
    present = geometry.members[:, 0] < capacity
    whole, stream = coding.pop(stream, tables, jnp.where(present, WHOLE_TABLE + kind, CERTAIN))
    split = valid & (whole[geometry.block // 4] != 1)
    modes, stream = coding.pop(stream, tables, jnp.where(split, MODE_TABLE + kind, CERTAIN))
    modes = jnp.where(split, 1 + jnp.clip(modes, 0, transform.MODES - 2), 0)
    kinds = jnp.stack([modes, geometry.level])
    log_step = context.logarithm(step)

    def visit(i, state):
        stream, maps, symbols, chosen = state
        plane = jnp.asarray(CODING_ORDER)[order[i]]
        known = context.features(maps, plane)
        index = context.classify(network, known, plane, kinds, log_step)
        index = jnp.where(valid, index, CERTAIN)
        new, stream = coding.pop(stream, tables, index)
        new = new.astype(jnp.uint8)
        maps = context.learn(maps, plane, new, geometry.neighbours)
        symbols = lax.dynamic_update_slice(symbols, new[None], (i, 0))
        chosen = lax.dynamic_update_slice(chosen, index.astype(jnp.uint16)[None], (i, 0))
        return stream, maps, symbols, chosen

    empty = jnp.zeros((PLANES, capacity), jnp.uint8)
    state = stream, context.no_maps(capacity), empty, empty.astype(jnp.uint16)
    stream, _, symbols, chosen = lax.fori_loop(0, count, visit, state)
    return modes, symbols, chosen, coding.is_finished(stream)


def symbol_bits(tables: Tables) -> Float[np.ndarray, "tables symbols"]:
    """Cost of each symbol: its ideal code length, its sign and its raw bits."""
    frequency = (np.asarray(tables.entries) >> 16) + 1.0
    extra = (np.arange(len(EDGES)) > 0) + EXTRA
    bits = tables.precision - np.log2(frequency)
    bits[:WHOLE_TABLE] += extra
    return bits.astype(np.float32)
