"""From decoded integers to samples, exactly: what the encoder's apply and the decoder share."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, UInt8

from . import dct_filter as filters
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


def planes_of(
    coefficients, modes, geometry
) -> tuple[Int32[Array, "s 3 32 32"], Int32[Array, "s 4"]]:
    """Decoded Y, U, V in 2**-VALUE_BITS, before restoration, and the modes by superblock."""
    padded = jnp.concatenate([coefficients, jnp.zeros((PLANES, 1), jnp.int32)], 1)
    cells = padded.T[geometry.members].reshape(-1, 4, 3, 16, 16)
    modes = jnp.concatenate([modes, jnp.zeros(1, jnp.int32)])[geometry.members]
    return transform.inverse(cells, modes), modes


def on_canvas(planes, modes, where) -> tuple[Int32[Array, "3 size"], Int32[Array, " size"]]:
    """Planes and places in their blocks, as a flat canvas (dct_filter)."""
    canvas = planes.transpose(1, 0, 2, 3).reshape(3, -1)[:, where]
    return canvas, filters.places(modes).reshape(-1)[where]


def synthesise(
    coefficients: Int32[Array, "planes capacity"],
    modes: Int32[Array, " capacity"],
    geometry: Geometry,
    where: Int32[Array, " size"],
    stride: Int32[Array, ""],
    step: Int32[Array, ""],
    weights: Int32[Array, "2 taps thresholds classes"],
) -> UInt8[Array, "3 size"]:
    """Samples of the canvas."""
    canvas, place = on_canvas(*planes_of(coefficients, modes, geometry), where)
    canvas = filters.restore(canvas, place, stride, step, weights)
    return transform.to_samples(canvas[None])[0].astype(jnp.uint8)
