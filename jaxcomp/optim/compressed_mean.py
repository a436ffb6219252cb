"""The mean in two halves, both compressed: all-to-all of shards, sums in float32, all-gather.

    s_j = 1/N sum_i D(C(x_ij)),     mean_j = D(C2(s_j + e_j)),     e_j <- s_j + e_j - mean_j

Sender j adds up shard j of all senders and sends the result to all. What a device sends is
2 (N - 1) / N of a wire, as much as a ring all-reduce of it, however many senders there are; no sum
is ever made in few bits. The second rounding has feedback of its own, of a shard: e_j. Tang et al.,
1-bit Adam, ICML 2021, section 4 (compressed_allreduce); with integers, qgZ of Wang et al., ZeRO++,
2023, section 3.3. With the identity for both it is an all-reduce whose order of summation is that
of the senders.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcomp.base import Compressor, Exchange
from jaxcomp.optim.exchange import (
    add_up,
    alone,
    check_axis,
    gather,
    gather_nbytes,
    sender_key,
    shard_of,
    shards,
    size_of,
    to_owners,
)
from jaxcomp.optim.identity import identity
from jaxcomp.optim.random import fold
from jaxcomp.optim.senders import Shard
from jaxcomp.optim.wire import narrowed, wire_nbytes

SECOND = (1 << 31) - 1  # beside the numbers of shards: the key of the second half


def compressed_mean(
    compressor: Compressor,
    axis_name: str,
    *,
    second: Compressor | None = None,
    remembers: bool = True,
) -> Exchange:
    """second: what the sums are sent with, like compressor by default.

    remembers: whether e is kept, f32 of one shard; False is for unbiased compressors without
    feedback. A shard is compressed as a vector of its own.
    """
    check_axis(axis_name)
    second = compressor if second is None else second

    def shard(x):
        size = shard_of(x.size, size_of(axis_name))
        return jax.ShapeDtypeStruct((size,), x.dtype)

    def init(x):
        zeros = jnp.zeros(shard(x).shape, x.dtype)
        count = size_of(axis_name)
        first = jax.tree.map(lambda part: jnp.stack([part] * count), compressor.init(zeros))
        error = Shard(jnp.zeros(zeros.shape, jnp.float32)) if remembers else ()
        return first, second.init(zeros), error

    def mean(key, x, state):
        first, last, error = state
        own = sender_key(key, axis_name)
        sent, total, first = scatter(compressor, own, x, first, axis_name)
        message = total / size_of(axis_name) + (error.value if remembers else 0)
        wire, last = second.compress(fold(own, SECOND), narrowed(message, x.dtype), last)
        if remembers:
            error = Shard(message - second.decompress(wire).astype(jnp.float32))
        rows = jax.vmap(second.decompress)(gather(wire, axis_name))
        out = rows.astype(jnp.float32).reshape(-1)[: x.size].reshape(x.shape)
        return sent, out, (first, last, error)

    def nbytes(x):
        count = size_of(axis_name)
        return gather_nbytes(
            wire_nbytes(compressor, shard(x)) + wire_nbytes(second, shard(x)), count
        )

    return Exchange(init, mean, nbytes, (axis_name,), f"compressed_mean {compressor.name}")


def scatter(
    compressor: Compressor, key: ArrayLike, x: jax.Array, state: Any, axis_name: str
) -> tuple[jax.Array, jax.Array, Any]:
    """The first half: (sent f32 like x, the sum f32[shard] of this sender's shard, state)."""
    count = size_of(axis_name)
    rows = shards(x, count)
    wires, state = jax.vmap(compressor.compress)(fold(key, jnp.arange(count)), rows, state)
    mine = to_owners(wires, axis_name)
    sent = jax.vmap(compressor.decompress)(wires).astype(jnp.float32)
    sent = sent.reshape(-1)[: x.size].reshape(x.shape)
    return sent, add_up(compressor, mine, rows[0]), state


def dense_mean(axis_name: str) -> Exchange:
    """As it is, added up in the order of senders: what other exchanges are compared with."""
    whole = compressed_mean(identity(), axis_name, remembers=False)
    return whole._replace(name="dense_mean")


def dense_over(axes: tuple[str, ...]) -> Exchange:
    """The mean over several axes as it is, one axis after the other; of none, what was sent."""
    if not axes:
        return alone(identity())
    exchange = dense_mean(axes[0])
    for axis in axes[1:]:
        exchange = _behind(exchange, dense_mean(axis))
    return exchange


def _behind(first: Exchange, second: Exchange) -> Exchange:
    def init(x):
        return first.init(x), second.init(x)

    def mean(key, x, state):
        sent, out, a = first.mean(key, x, state[0])
        _, out, b = second.mean(key, out.astype(x.dtype), state[1])
        return sent, out, (a, b)

    def nbytes(x):
        return first.nbytes(x) + second.nbytes(x)

    return Exchange(init, mean, nbytes, (*first.axes, *second.axes), first.name)
