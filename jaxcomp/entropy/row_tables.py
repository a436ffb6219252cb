"""The one crossing from floats to integers: rows of a density -> coding.Tables.

All rows of a coding.Tables are equally wide, and every column costs each row a frequency of 1 in
2**precision. So a row spans the quantiles that leave tail_mass outside, as long as that takes at
most maximum_symbols columns; else those that leave as much more outside as it must. What lies
outside is coded by the escape column and an exponential Golomb code, a few bits more than ideal.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxcomp.base import JaxcompError
from jaxcomp.coding import Tables, build_tables
from jaxcomp.entropy.tails import tail_finder

# An escape costs about 6 bits more than it should, a column 2.2e-5 bits for every symbol of any
# row: near this mass the two balance for tables of a few hundred columns.
TAIL_MASS = 2.0**-12
# 128 columns cost a symbol of a row that needs few of them 0.003 bits: where nearly all are zero
# that is 2 % (measured on a photo at 0.2 bits per coefficient), and 32 columns, which cost 1 %, are
# better. A Gaussian of scale 64 with 128 columns loses 0.15 bits, 2 %, by its escapes.
MAXIMUM_SYMBOLS = 128


def row_tables(
    log_mass: Callable[[Any, Array, Array], Array],
    rows: int,
    *,
    tail_mass: float = TAIL_MASS,
    maximum_symbols: int = MAXIMUM_SYMBOLS,
    precision: int = 16,
) -> Callable[[Any], Tables]:
    """tables(params): integers k with probability P(k - 1/2 < X < k + 1/2), rows of log_mass.

    log_mass(params, lower, upper): float32[..., rows] -> log P(lower < X < upper), infinite ends
    included. The last column is the escape. Raises JaxcompError for bad options, and tables does
    for traced params. What it compiles serves all params.
    """
    if not 0 < tail_mass < 1:
        raise JaxcompError(f"tail_mass must be between 0 and 1, got {tail_mass}; 2**-12, say")
    if not 2 <= maximum_symbols <= 1 << precision <= 1 << 16:
        raise JaxcompError(
            f"expected 2 to 2**precision symbols (one is the escape) and precision at most 16, got "
            f"maximum_symbols={maximum_symbols} and precision={precision}"
        )
    find = tail_finder(log_mass, rows)
    infinite = np.full(rows, np.inf, np.float32)

    @jax.jit
    def masses(params, low, high):
        return jnp.exp(log_mass(params, low, high))

    def tables(params):
        refuse_tracers(params)
        first, last = _range(functools.partial(find, params), rows, tail_mass, maximum_symbols)
        width = int((last - first).max()) + 1
        # Narrow rows are as wide as the widest: to both sides.
        first = first - (width - 1 - (last - first)) // 2
        edges = first.astype(np.float32) + np.arange(width + 1, dtype=np.float32)[:, None] - 0.5
        # One program for all: the tails are a bin before the first and one after the last.
        low, high = np.stack([-infinite, *edges]), np.stack([*edges, infinite])
        with jax.ensure_compile_time_eval():
            pmf = np.asarray(masses(params, low, high))
        pmf = np.concatenate([pmf[1:-1], pmf[:1] + pmf[-1:]]).T
        return build_tables(
            np.ascontiguousarray(pmf), precision=precision, offset=first, escape=True
        )

    return tables


def _range(find, rows, tail_mass, maximum_symbols):
    """i32[rows], i32[rows]: the first and last integer of each row, with room for the escape."""
    mass = np.full(rows, tail_mass)
    while True:
        lower, upper = find(mass)
        first, last = np.floor(lower + 0.5).astype(np.int64), np.ceil(upper - 0.5).astype(np.int64)
        wide = last - first + 2 > maximum_symbols
        if not wide.any():
            return first.astype(np.int32), last.astype(np.int32)
        # Towards the median in small steps; they end, at one integer if need be.
        mass = np.where(wide, np.minimum(1.25 * mass, 1 - 0.95 * (1 - mass)), mass)


def refuse_tracers(params: Any) -> None:
    """Raise JaxcompError if params are traced: tables are made on the host, once per model."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(params)):
        raise JaxcompError(
            "expected concrete params, got traced ones; call tables(params) outside jit and pass "
            "its result in"
        )
