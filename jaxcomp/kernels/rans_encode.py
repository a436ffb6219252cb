"""Interleaved rANS encoding: intervals of many symbols -> 16-bit words, one stack per group.

A lane is a coder of its own with a 32-bit state x in [2**16, 2**32). Pushing a symbol with
frequency f and cumulative frequency c at precision p is

    if x >> (32 - p) >= f:  emit x & 0xffff;  x >>= 16
    x = (x // f << p) + c + x % f

L lanes form a group that shares one stack of words. Encoding visits steps T-1..0 (decoding, which
pops, visits 0..T-1); within a step the emitted words are pushed in descending lane order, so that
the decoder's lanes take them in ascending order. This order is the format: it never depends on the
platform. The interval of step t, lane l arrives packed as (f - 1) << 16 | c, gathered by XLA
beforehand; padding is (2**p - 1) << 16, whose push leaves any state unchanged.

Shapes: G groups, T steps, L lanes. Duda, Asymmetric numeral systems, arXiv:1311.2540; interleaving
after Giesen, Interleaved entropy coders, arXiv:1402.3392.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Int32, UInt16, UInt32

from jaxcomp.kernels import dispatch

Encoded = tuple[
    UInt32[Array, "groups lanes"], UInt16[Array, "groups capacity"], Int32[Array, " groups"]
]


def run(
    head: UInt32[Array, "groups lanes"],
    start_freq: UInt32[Array, "groups steps lanes"],
    capacity: int,
    *,
    precision: int,
) -> Encoded:
    """Push all symbols onto empty stacks: (head, words, size).

    words[g, :size[g]] is the stack of group g, bottom first, zeros above. Words that do not fit
    into `capacity` are dropped while size keeps counting: size > capacity means overflow.
    """
    return _coder(capacity, precision)(head, start_freq)


@functools.cache
def _coder(capacity: int, precision: int):
    """The encoder at its static arguments, with a batch under vmap folded into the groups."""

    @custom_vmap
    def call(head, start_freq):
        shapes = (head.shape, start_freq.shape)
        options = {"capacity": capacity, "precision": precision}

        def kernel(function, platform):
            return (
                functools.partial(function, **options)
                if supports(*shapes, platform=platform, **options)
                else None
            )

        return dispatch.by_platform(
            head,
            start_freq,
            reference=functools.partial(reference, **options),
        )

    @call.def_vmap
    def fold(axis_size, in_batched, *arrays):
        folded = [
            (x if batched else jnp.broadcast_to(x, (axis_size, *x.shape)))
            for x, batched in zip(arrays, in_batched, strict=True)
        ]
        folded = [x.reshape(axis_size * x.shape[1], *x.shape[2:]) for x in folded]
        out = [x.reshape(axis_size, -1, *x.shape[1:]) for x in call(*folded)]
        return tuple(out), (True,) * len(out)

    return call


# ---- reference -----------------------------------------------------------------------------------


def reference(
    head: UInt32[Array, "groups lanes"],
    start_freq: UInt32[Array, "groups steps lanes"],
    capacity: int,
    *,
    precision: int,
) -> Encoded:
    """The plain lax twin of `run`, which defines its result."""
    head, word, emit = dense(head, start_freq, precision=precision)
    # Steps and lanes are both visited downwards: the stack is the flattened plane, reversed.
    groups = head.shape[0]
    word, emit = (jnp.flip(x.reshape(groups, -1), 1) for x in (word, emit))
    count = jnp.cumsum(emit, axis=1, dtype=jnp.int32)
    place = jnp.where(emit, count - 1, capacity)
    empty = jnp.zeros((groups, capacity), jnp.uint16)
    words = jax.vmap(lambda w, i, v: w.at[i].set(v, mode="drop"))(empty, place, word)
    size = count[:, -1] if emit.shape[1] else jnp.zeros(groups, jnp.int32)
    return head, words, size


def dense(
    head: UInt32[Array, "groups lanes"],
    start_freq: UInt32[Array, "groups steps lanes"],
    *,
    precision: int,
) -> tuple[
    UInt32[Array, "groups lanes"],
    UInt16[Array, "groups steps lanes"],
    Bool[Array, "groups steps lanes"],
]:
    """(head, word, emit): the word that each push would emit, and whether it does."""

    def push(x, entry):
        freq, start = (entry >> 16) + 1, entry & 0xFFFF
        emit = x >> 16 >= freq << (16 - precision)
        word = x.astype(jnp.uint16)
        x = jnp.where(emit, x >> 16, x)
        quotient = _divide(x, freq, precision)
        return (quotient << precision) + start + (x - quotient * freq), (word, emit)

    head, out = lax.scan(push, head, start_freq.swapaxes(0, 1), reverse=True)
    word, emit = (x.swapaxes(0, 1) for x in out)
    return head, word, emit


def _divide(x: jax.Array, freq: jax.Array, precision: int) -> jax.Array:
    """x // freq for x < freq << (32 - precision), without integer division where possible."""
    if precision < 10:
        return x // freq
    # No vector unit divides integers. The quotient is below 2**22 and a float32 estimate has a
    # relative error below 2**-22, so it is off by one at most; the remainder tells which way.
    quotient = (x.astype(jnp.float32) / freq.astype(jnp.float32)).astype(jnp.uint32)
    rest = x - quotient * freq
    low = rest >> 31
    return quotient - low + ((low == 0) & (rest >= freq))


# ---- end of reference ----------------------------------------------------------------------------


def supports(
    head: tuple[int, int],
    start_freq: tuple[int, int, int],
    *,
    capacity: int,
    precision: int,
    platform: str,
) -> bool:
    """Whether the kernel of `platform` ("cuda" or "tpu") takes arguments of these shapes."""
    return False
