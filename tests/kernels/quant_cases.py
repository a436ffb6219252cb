"""Packed weights with their dense values, drawn by NumPy, and programs that compile quickly."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.kernels.packing import TRITS, pack

QUICK = {"xla_backend_optimization_level": 0}  # each program runs once


class Case(NamedTuple):
    """y = x @ weight, with weight [k, n] in float64."""

    x: jax.Array
    codes: jax.Array
    scales: jax.Array
    zeros: jax.Array | None
    weight: np.ndarray
    options: dict


def case(
    bits, axis, *, m=3, k=90, padded=96, n=21, tile=16, group=32, zeros=False, table=None, seed=0
) -> Case:
    """Codes, scales and zeros at random; k of the `padded` weights along `axis` meet x."""
    rng = np.random.default_rng(seed)
    length = padded if group == -1 else group

    def place(a):  # [k, n], as it lies in memory
        return np.ascontiguousarray(a if axis == 0 else a.T)

    count = 3 if bits == TRITS else 1 << bits if table is None else len(table)
    codes = rng.integers(0, count, (padded, n)).astype(np.uint8)
    scales = rng.uniform(0.5, 2, (padded // length, n)).astype(np.float32)
    middle = 0 if bits == 8 or table else count // 2
    level = codes.view(np.int8) if bits == 8 and table is None else codes
    level = np.asarray(level if table is None else np.array(table)[codes], np.float64)
    zero = np.full(scales.shape, middle, np.float32)
    if zeros:
        zero += rng.uniform(-1.5, 1.5, zero.shape).astype(np.float32)
    weight = (level - zero.repeat(length, 0)) * scales.repeat(length, 0)
    if bits == 8:
        packed = place(codes if table else codes.view(np.int8))
    else:
        packed = np.asarray(pack(jnp.asarray(place(codes)), bits, axis=axis, tile=tile))
    options = {"bits": bits, "tile": tile, "group": group, "axis": axis}
    if not zeros:
        options["offset"] = middle
    if table is not None:
        options["table"] = table
    x = rng.normal(size=(m, k)).astype(np.float32)
    arrays = (jnp.asarray(a) for a in (x, packed, place(scales)))
    return Case(*arrays, jnp.asarray(place(zero)) if zeros else None, weight[:k], options)
