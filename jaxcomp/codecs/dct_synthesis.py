"""From decoded integers to samples, exactly: what the encoder's apply and the decoder share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, UInt8

from . import dct_transform as transform
from .dct_coder import MEAN_LIMIT, STEP_BITS, predict_means
from .dct_context import CODING_ORDER, FREQUENCIES, PLANES
from .dct_geometry import Geometry

OFFSET_BITS = 6  # offsets of reconstruction points are in 1/64 of a step


def reconstruct(
    offsets: np.ndarray,
    geometry: Geometry,
    step: int,
    planes: np.ndarray,
    tables: np.ndarray,
    values: np.ndarray,
) -> np.ndarray:
    """Coefficients i32[PLANES, capacity] in 2**-VALUE_BITS, of values [n, capacity] of n planes.

    A magnitude m stands for (m + offsets[table, min(m, 3) - 1] / 64) steps: the mean of what is
    rounded to it. planes are positions in the coding order.
    """
    capacity = values.shape[1]
    row, column = np.nonzero(values)
    value = values[row, column].astype(np.int64)
    magnitude = np.abs(value)
    point = (magnitude << OFFSET_BITS) + offsets[tables[row, column], np.minimum(magnitude, 3) - 1]
    out = np.zeros((PLANES, capacity), np.int32)
    out[CODING_ORDER[planes[row]], column] = _scale(np.sign(value) * point, step)
    for i in np.flatnonzero(CODING_ORDER[planes] % FREQUENCIES == 0):
        means = _means(values[i], geometry)
        out[CODING_ORDER[planes[i]]] = _scale(means << OFFSET_BITS, step)
    return out


def _scale(points, step):
    shift = OFFSET_BITS + STEP_BITS - transform.VALUE_BITS
    return np.clip((points * step + (1 << (shift - 1))) >> shift, -transform.LIMIT, transform.LIMIT)


def _means(differences, geometry):
    """The means whose differences to their prediction these are, level after level."""
    means = np.zeros(len(differences), np.int64)
    for slots in geometry.order:
        part = geometry._replace(sources=geometry.sources[:, slots])
        predicted = predict_means(means, part, np)
        means[slots] = np.clip(predicted + differences[slots], -MEAN_LIMIT, MEAN_LIMIT)
    return means


@functools.partial(jax.jit)
def synthesise(
    coefficients: Int32[Array, "planes capacity"],
    modes: Int32[Array, " capacity"],
    geometry: Geometry,
) -> UInt8[Array, "s 32 32 3"]:
    """Samples of every superblock."""
    padded = jnp.concatenate([coefficients, jnp.zeros((PLANES, 1), jnp.int32)], 1)
    cells = padded.T[geometry.members].reshape(-1, 4, 3, 16, 16)
    modes = jnp.concatenate([modes, jnp.zeros(1, jnp.int32)])[geometry.members]
    samples = transform.to_samples(transform.inverse(cells, modes))
    return samples.transpose(0, 2, 3, 1).astype(jnp.uint8)
