"""k_means: the vectors that stand for many, each value of these with a weight of its own.

    minimise over the table and codes    sum over i of weights_i . (x_i - table[code_i])^2

Lloyd's steps from seeds that are drawn one after another, each with a probability that grows with
the error that those before it leave (Arthur and Vassilvitskii, k-means++: the advantages of careful
seeding, 2007, section 2.2). So as many seeds as there are different vectors find all of these.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Integer, UInt32

from jaxcomp.base import random_bits

LIMIT = 1 << 22  # floats that a chunk may take at a time: 16 MiB
SAMPLE = 1 << 17  # vectors that are looked at, where there are more: 512 for each of 256 levels
STEPS = 10  # of Lloyd's; methods that start here move the table further
UNIT = 2.0**-32  # of a random u32


def k_means(
    x: Float[Array, "vectors size"],
    weights: Float[Array, "vectors size"],
    levels: int,
    *,
    stream: int | UInt32[Array, ""] = 0,
    steps: int = STEPS,
) -> Float[Array, "levels size"]:
    """The table, after `steps` of Lloyd's. Another stream draws other seeds."""
    if len(x) > max(SAMPLE, levels):
        order, _ = random_bits((0, 1), jnp.arange(len(x), dtype=jnp.uint32))
        some = jnp.argsort(order)[: max(SAMPLE, levels)]
        x, weights = x[some], weights[some]
    first = jnp.uint32(stream) * jnp.uint32(levels)
    draws, _ = random_bits((0, 0), first + jnp.arange(levels, dtype=jnp.uint32))

    def seeded(k, state):
        table, left = state
        total = jnp.cumsum(left)
        point = draws[k].astype(jnp.float32) * UNIT * total[-1]
        entry = x[jnp.minimum(jnp.searchsorted(total, point, side="right"), len(x) - 1)]
        return table.at[k].set(entry), jnp.minimum(left, (weights * (x - entry) ** 2).sum(1))

    blank = jnp.zeros((levels, x.shape[1]), x.dtype)
    # Seeds are vectors without values that weigh nothing, which say nothing of these, if there are.
    whole = (weights > 0).all(1)
    left = jnp.where(whole | ~whole.any(), weights.sum(1), 0.0)
    start, _ = lax.fori_loop(0, levels, seeded, (blank, left))

    def moved(_, table):
        codes = nearest(x, weights, table)
        mass, total = blank.at[codes].add(weights), blank.at[codes].add(weights * x)
        return jnp.where(mass > 0, total / jnp.where(mass > 0, mass, 1.0), table)

    return lax.fori_loop(0, steps, moved, start)


def nearest(
    x: Float[Array, "vectors size"],
    weights: Float[Array, "vectors size"],
    table: Float[Array, "levels size"],
) -> Integer[Array, " vectors"]:
    """The entry of least error, of each vector; memory does not grow with their number."""
    terms = jnp.concatenate([table**2, -2 * table], 1)

    def chunk(each):
        x, weights = each
        known = jnp.concatenate([weights, weights * x], 1)
        return jnp.matmul(known, terms.T, precision="highest").argmin(1)

    return in_chunks(chunk, (x, weights), max(1, LIMIT // len(table)))


def in_chunks(
    function: Callable[[tuple[jax.Array, ...]], jax.Array],
    arrays: tuple[jax.Array, ...],
    rows: int,
) -> jax.Array:
    """function over `rows` leading rows of all at a time; zeros fill up the last."""
    size = len(arrays[0])
    if size <= rows:
        return function(arrays)
    count = -(-size // rows)

    def cut(x):
        x = jnp.pad(x, ((0, count * rows - size), *[(0, 0)] * (x.ndim - 1)))
        return x.reshape(count, rows, *x.shape[1:])

    found = lax.map(function, tuple(cut(x) for x in arrays))
    return found.reshape(-1, *found.shape[2:])[:size]
