"""Bits-back coding: a codec is two functions on a stream, and codecs combine.

    Coder(push, pop)    pop(push(stream, x)) == (x, stream), and the other way round

A latent-variable model codes x by first popping z from what the stream already holds, so that the
choice of z costs nothing: on average -log p(x | z) - log p(z) + log q(z | x), the negative evidence
lower bound. Townsend, Bird and Barber, Practical lossless compression with latent variables using
bits back coding, ICLR 2019, sections 2.2 and 2.3.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int32, UInt16

from jaxcomp.base import CapacityError
from jaxcomp.coding.rans import pop as pop_symbols
from jaxcomp.coding.rans import push as push_symbols
from jaxcomp.coding.stream import Stream
from jaxcomp.coding.tables import Tables


class Coder(NamedTuple):
    """push(stream, x) -> stream, pop(stream) -> (x, stream): inverses of each other."""

    push: Callable[[Stream, Any], Stream]
    pop: Callable[[Stream], tuple[Any, Stream]]


def symbols(
    tables: Tables,
    index: Int32[Array, "*shape"] | None = None,
    *,
    shape: tuple[int, ...] | None = None,
) -> Coder:
    """Arrays of symbols under fixed tables: int32 of the shape of index, or of `shape`."""
    return Coder(
        lambda stream, x: push_symbols(stream, tables, x, index),
        lambda stream: pop_symbols(stream, tables, index, shape=shape),
    )


def chain(*coders: Coder) -> Coder:
    """A tuple, one coder for each part; the first part is popped first."""

    def push(stream, parts):
        for coder, part in reversed(list(zip(coders, parts, strict=True))):
            stream = coder.push(stream, part)
        return stream

    def pop(stream):
        parts = []
        for coder in coders:
            part, stream = coder.pop(stream)
            parts.append(part)
        return tuple(parts), stream

    return Coder(push, pop)


def bits_back(
    prior: Coder, likelihood: Callable[[Any], Coder], posterior: Callable[[Any], Coder]
) -> Coder:
    """x under p(z) p(x | z), with z taken from the stream by q(z | x)."""

    def push(stream, x):
        z, stream = posterior(x).pop(stream)
        stream = likelihood(z).push(stream, x)
        return prior.push(stream, z)

    def pop(stream):
        z, stream = prior.pop(stream)
        x, stream = likelihood(z).pop(stream)
        return x, posterior(x).push(stream, z)

    return Coder(push, pop)


def with_words(stream: Stream, words: UInt16[Array, "groups n"]) -> Stream:
    """An empty stream that starts from `words` (random, or another message) to take bits from.

    Raises CapacityError if they do not fit.
    """
    groups, capacity = stream.words.shape
    if words.shape[0] != groups or words.shape[1] > capacity:
        raise CapacityError(
            f"expected at most {capacity} words for each of {groups} groups, got {words.shape}"
        )
    size = jnp.full(groups, words.shape[1], jnp.int32)
    return stream._replace(words=stream.words.at[:, : words.shape[1]].set(words), size=size)
