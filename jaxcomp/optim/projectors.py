"""Which part of a gradient has moments (frugal): columns, runs of them, entries, singular vectors.

    init(leaf, density) -> part                    arrays of static shapes, known without a choice
    choose(key, g, part) -> part                   another choice
    project(g, part, density) -> P g
    lift(g, part, step, scale, density) -> P^T step + scale * sign(g - P^T P g)
    covers(g, density) -> bool                     whether all of g is in the part, whatever it is

A leaf is a matrix [rows, columns] whose columns are its last axis. Zmushko et al., FRUGAL, 2024,
section 3 and appendix B compare these choices and find columns and blocks as good as singular
vectors, and cheaper.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.kernels.written import written
from jaxcomp.optim.random import words


class Projector(NamedTuple):
    """The five functions above."""

    init: Callable[..., Any]
    choose: Callable[..., Any]
    project: Callable[..., jax.Array]
    lift: Callable[..., jax.Array]
    covers: Callable[..., bool]


def by_columns() -> Projector:
    """Columns drawn at random: 4 bytes for each of them beside its moments."""

    def init(leaf, density):
        return lax.iota(jnp.int32, _count(leaf.shape[-1], density))

    def choose(key, g, part):
        return _draw(key, g.shape[-1], part.size)

    def project(g, part, density):
        return _columns(_matrix(g), part)

    def lift(g, part, step, scale, density):
        signs = scale * jnp.sign(_matrix(g))
        return _set_columns(signs, part, step.astype(signs.dtype)).reshape(g.shape)

    return Projector(init, choose, project, lift, _all_columns)


def by_blocks() -> Projector:
    """Columns that lie beside each other, from a random one on, and again from the first."""

    def init(leaf, density):
        return jnp.zeros(1, jnp.int32)

    def choose(key, g, part):
        return (words(key, (1,)) % max(1, g.shape[-1])).astype(jnp.int32)

    def places(g, part, density):
        size = g.shape[-1]
        return (part + lax.iota(jnp.int32, _count(size, density))) % size

    def project(g, part, density):
        return _columns(_matrix(g), places(g, part, density))

    def lift(g, part, step, scale, density):
        return columns.lift(g, places(g, part, density), step, scale, density)

    columns = by_columns()
    return Projector(init, choose, project, lift, _all_columns)


def by_coordinates() -> Projector:
    """Entries drawn at random: 4 bytes for each beside its moments, half as much again."""

    def init(leaf, density):
        return lax.iota(jnp.int32, _count(leaf.size, density))

    def choose(key, g, part):
        return _draw(key, g.size, part.size)

    def project(g, part, density):
        return g.reshape(-1)[part]

    def lift(g, part, step, scale, density):
        signs = scale * jnp.sign(g.reshape(-1))
        return signs.at[part].set(step.astype(signs.dtype)).reshape(g.shape)

    def covers(g, density):
        return _count(g.size, density) == g.size

    return Projector(init, choose, project, lift, covers)


def by_svd() -> Projector:
    """The leading singular vectors of the gradient, of its shorter side, as in GaLore.

    The vectors are kept: rank times the shorter side, in float32.
    """

    def init(leaf, density):
        side = min(_matrix(leaf).shape)
        return jnp.eye(side, _count(side, density))  # rows, until there is a gradient to ask

    def choose(key, g, part):
        wide = _wide(g)
        left = jnp.linalg.svd(wide, full_matrices=False)[0][:, : part.shape[1]]
        return jnp.where(jnp.isfinite(wide).all(), left, part)

    def project(g, part, density):
        return part.T @ _wide(g)

    def lift(g, part, step, scale, density):
        wide = _wide(g)
        out = part @ step + scale * jnp.sign(wide - part @ (part.T @ wide))
        return (out if _is_wide(g) else out.T).reshape(g.shape)

    def covers(g, density):
        return False

    return Projector(init, choose, project, lift, covers)


def _matrix(g: jax.Array) -> jax.Array:
    return g.reshape(-1, g.shape[-1])


def _columns(matrix: jax.Array, part: jax.Array) -> jax.Array:
    """Some of the columns. On CPUs entry by entry, as XLA lays whole columns out by columns."""

    def entries(matrix, part):
        rows = lax.broadcasted_iota(jnp.int32, (matrix.shape[0], part.size), 0)
        return written(matrix.at[rows, part].get(mode="promise_in_bounds"))

    return lax.platform_dependent(matrix, part, cpu=entries, default=lambda x, part: x[:, part])


def _set_columns(matrix: jax.Array, part: jax.Array, step: jax.Array) -> jax.Array:
    """The matrix with step in place of some of its columns.

    CPUs do not write step there, they read it where it is, in the loop over the parameters. It is
    `written` first, and read from two equal matrices: XLA would compute it for each entry anew.
    """
    if not part.size:
        return matrix

    def entries(matrix, part, step):
        place = jnp.full(matrix.shape[1], -1).at[part].set(lax.iota(jnp.int32, part.size))
        both = jnp.broadcast_to(written(step), (2, *step.shape))
        which = (place < 0).astype(jnp.int32)
        rows = lax.broadcasted_iota(jnp.int32, matrix.shape, 0)
        there = both.at[which, rows, jnp.maximum(place, 0)].get(mode="promise_in_bounds")
        return jnp.where(place >= 0, there, matrix)

    return lax.platform_dependent(
        matrix, part, step, cpu=entries, default=lambda x, part, step: x.at[:, part].set(step)
    )


def _is_wide(g: jax.Array) -> bool:
    rows, columns = _matrix(g).shape
    return rows <= columns


def _wide(g: jax.Array) -> jax.Array:
    matrix = _matrix(g).astype(jnp.float32)
    return matrix if _is_wide(g) else matrix.T


def _count(size: int, density: float) -> int:
    return min(size, round(size * density))


def _all_columns(g: jax.Array, density: float) -> bool:
    return _count(g.shape[-1], density) == g.shape[-1]


def _draw(key: jax.Array, size: int, count: int) -> jax.Array:
    """count of the numbers below size, in order, all sets as likely."""
    return jnp.sort(jnp.argsort(words(key, (size,)))[:count]).astype(jnp.int32)
