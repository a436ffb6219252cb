"""What a state counts for a training log: steps, bytes, and what was not sent."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcomp.optim.senders import PerSender

HALF = 1 << 16  # bytes are counted in words of 32 bits, added up in halves of them


class Log(NamedTuple):
    """count and skipped i32: steps, and those of them whose gradients were not finite
    nbytes u32[2, 2]: sent so far, and of the same gradients as they are, low words first
    error_norm: PerSender of f32, |message - sent| in the last finite step
    """

    count: jax.Array
    skipped: jax.Array
    nbytes: jax.Array
    error_norm: PerSender


def start() -> Log:
    """Of no step."""
    count, skipped = (jnp.zeros((), jnp.int32) for _ in range(2))  # no buffer is donated twice
    return Log(count, skipped, jnp.zeros((2, 2), jnp.uint32), PerSender(jnp.zeros(())))


def step(log: Log, finite: jax.Array, error_norm: jax.Array, sent: int, dense: int) -> Log:
    """After one more: sent and dense are its bytes."""
    return Log(
        log.count + 1,
        log.skipped + 1 - finite.astype(jnp.int32),
        add_nbytes(log.nbytes, sent, dense),
        PerSender(jnp.where(finite, error_norm, log.error_norm.value)),
    )


def add_nbytes(nbytes: jax.Array, sent: int, dense: int) -> jax.Array:
    """u32[2, 2] and what a step adds to its two rows, carried from word to word."""
    more = [[n >> 16 * place & (HALF - 1) for place in range(4)] for n in (sent, dense)]
    more = jnp.array(more, jnp.uint32)
    low, high = nbytes[:, 0], nbytes[:, 1]
    first = (low & (HALF - 1)) + more[:, 0]
    second = (low >> 16) + more[:, 1] + (first >> 16)
    low = (second & (HALF - 1)) << 16 | first & (HALF - 1)
    return jnp.stack([low, high + (second >> 16) + more[:, 2] + HALF * more[:, 3]], 1)
