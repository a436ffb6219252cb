"""Integers that stand for k + offset, or for k + dither: the bins move, the density stays.

    shifted     one offset per row, so that a bin's centre is the mode
    universal   one row per level of a dither with few values, so that universal quantisation costs
                what the density of y + noise says, and not what the best fixed bins would

Both turn a model of bits(params, y, *side) into one of integers, by moving y. Which side chooses
which row is told by example: `rows` are the sides that select row r at position r of the last axis.
None for a model of channels; jnp.arange(64) for one with 64 scales.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxcomp.base import EntropyModel
from jaxcomp.coding import Tables, build_tables
from jaxcomp.entropy.dither import dither_value


def shifted(
    model: EntropyModel, offset: Float[Array | np.ndarray, " rows"], *rows: Array | np.ndarray
) -> EntropyModel:
    """The model of integers k that stand for k + offset[row]. Sides as the model's own."""

    def bits(params, y, *side):
        row = model.index(params, jnp.shape(y), *side)
        return model.bits(params, y + jnp.asarray(offset, jnp.float32)[row], *side)

    def tables(params):
        return _moved(model, params, rows, np.asarray(offset, np.float32)[None])

    return EntropyModel(model.init, bits, tables, model.index)


def universal(model: EntropyModel, *rows: Array | np.ndarray, levels: int = 16) -> EntropyModel:
    """The model of integers k that stand for k + dither_value(dither_index, levels).

    bits(params, k, dither_index, *side), index(params, shape, dither_index, *side): the sides of
    the model come after the dither's index, which dither_index draws from a key. Agustsson and
    Theis, NeurIPS 2020, section 3.2.
    """

    def bits(params, y, dither_index, *side):
        return model.bits(params, y + dither_value(dither_index, levels), *side)

    def tables(params):
        with jax.ensure_compile_time_eval():
            every = np.asarray(dither_value(np.arange(levels), levels))
        return _moved(model, params, rows, every[:, None])

    def index(params, shape, dither_index, *side):
        return model.index(params, shape, *side) * levels + jnp.asarray(dither_index, jnp.int32)

    return EntropyModel(model.init, bits, tables, index)


def _moved(model: EntropyModel, params, rows, move) -> Tables:
    """Tables with `levels` rows at k + move, f32[levels, rows or 1], for every row of the model."""
    own = model.tables(params)
    first, width = np.asarray(own.offset), own.entries.shape[1] - 1
    y = (first + np.arange(width)[:, None] + move[:, None]).astype(np.float32)  # [level, k, row]
    with jax.ensure_compile_time_eval():
        inside = np.exp2(-np.asarray(jax.jit(model.bits)(params, y, *rows), np.float64))
    inside = inside.transpose(2, 0, 1).reshape(-1, width)
    # Float32 masses add up to 1 within 1e-6: no less is left for the tails.
    outside = np.maximum(1 - inside.sum(1, keepdims=True), 1e-6)
    return build_tables(
        np.concatenate([inside, outside], axis=1),
        precision=own.precision,
        offset=np.repeat(first, len(move)),
        escape=True,
    )
