"""Apart: a few entries of every vector, with their places: a byte each, and no sorting.

As many of each vector, so that shapes are static. They are found and put back by comparisons with
all places, which fuse into what is around them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxcomp.base import UnsupportedInput

LONGEST = 256  # entries of a vector: places are bytes


class Apart(NamedTuple):
    """values bf16 and places u8, with the entries apart in place of the axis of the vectors."""

    values: jax.Array
    places: jax.Array


def check_length(length: int) -> None:
    if length > LONGEST:
        raise UnsupportedInput(
            f"expected vectors of at most {LONGEST} to keep entries of apart, got {length}; places "
            "are bytes"
        )


def take(
    x: Float[Array, "*shape"], apart: Bool[Array, "*shape"], count: int, *, axis: int
) -> Apart:
    """The entries of x where `apart` is: `count` of them in every vector along axis, or fewer."""
    check_length(x.shape[axis])
    last, there = (jnp.moveaxis(each, axis, -1)[..., None, :] for each in (x, apart))
    turn = jnp.cumsum(there, -1) - 1
    found = there & (turn == jnp.arange(count)[:, None])  # [..., count, length]
    places = jnp.where(found, jnp.arange(x.shape[axis]), 0).sum(-1)
    values = jnp.where(found, last, 0.0).sum(-1)
    kept = (jnp.moveaxis(each, -1, axis) for each in (values, places))
    return Apart(*(each.astype(d) for each, d in zip(kept, ("bfloat16", "uint8"), strict=True)))


def put(apart: Apart, length: int, *, axis: int) -> jax.Array:
    """f32: vectors of `length` with the entries at their places, and zeros."""
    values, places = (jnp.moveaxis(each, axis, -1)[..., None] for each in apart)
    found = places == jnp.arange(length)  # [..., count, length]
    return jnp.moveaxis(jnp.where(found, values.astype(jnp.float32), 0.0).sum(-2), -1, axis)


def extremes(x: Float[Array, "*shape"], each: int, *, axis: int) -> Bool[Array, "*shape"]:
    """Where the `each` largest and the `each` smallest entries of every vector along axis are."""
    return largest(x, each, axis=axis) | largest(-x, each, axis=axis)


def largest(x: Float[Array, "*shape"], count: int, *, axis: int) -> Bool[Array, "*shape"]:
    """Where the `count` largest entries of every vector along axis are; the first of equal ones."""
    places = lax.top_k(jnp.moveaxis(x, axis, -1), count)[1]
    found = (places[..., None] == jnp.arange(x.shape[axis])).any(-2)
    return jnp.moveaxis(found, -1, axis)
