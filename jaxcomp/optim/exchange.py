"""What exchanges share: sums in the order of senders, rings, and the exchange of a lone sender.

Senders lie along a named axis of shard_map or vmap, so that eight devices can be followed on one.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxcomp import tree
from jaxcomp.base import Compressor, Exchange, UnsupportedInput
from jaxcomp.kernels.dispatch import align
from jaxcomp.optim.random import fold
from jaxcomp.optim.wire import wire_nbytes


def exchange_of(method: Compressor | Exchange, axis_name: str | None = None) -> Exchange:
    """An exchange as it is; a compressor as one whose senders do not meet."""
    if isinstance(method, Exchange):
        if axis_name is not None:
            raise UnsupportedInput(
                f"expected axis_name with a compressor alone, got it with {method.name}, which has "
                f"axes {method.axes} of its own; leave it out"
            )
        return method
    return alone(method, axis_name)


def alone(compressor: Compressor, axis_name: str | None = None) -> Exchange:
    """Nobody is met: the mean is what was sent, and is averaged by whoever calls.

    axis_name: of senders under shard_map or vmap, which then draw apart; without, alike.
    """
    if axis_name is not None:
        check_axis(axis_name)

    def mean(key, x, state):
        own = key if axis_name is None else sender_key(key, axis_name)
        wire, state = compressor.compress(own, x, state)
        sent = compressor.decompress(wire).astype(jnp.float32)
        return sent, sent, state

    def nbytes(x):
        return wire_nbytes(compressor, x)

    return Exchange(compressor.init, mean, nbytes, (), compressor.name)


def check_axis(axis_name: Any) -> None:
    """UnsupportedInput for what is not the name of one axis."""
    if not isinstance(axis_name, str):
        raise UnsupportedInput(
            f"expected the name of one axis, got {axis_name!r}; of two axes, see hierarchical, "
            "power_sgd and summed"
        )


def size_of(axis_name: str | Sequence[str]) -> int:
    """How many senders lie along the axis, or axes. UnsupportedInput where nobody named it."""
    axes = (axis_name,) if isinstance(axis_name, str) else axis_name
    try:
        return math.prod(lax.axis_size(axis) for axis in axes)
    except NameError as error:
        raise UnsupportedInput(
            f"expected shard_map or vmap around this that names {axis_name!r}, got none; init and "
            "update of what meets run inside: optim.init and optim.on_senders do that"
        ) from error


def sender_key(key: ArrayLike, axis_name: str) -> jax.Array:
    """The key of this sender along the axis."""
    size_of(axis_name)  # that it is named
    return fold(key, lax.axis_index(axis_name))


def add_up(compressor: Compressor, wires: Any, x: Any) -> jax.Array:
    """f32 sum of what wires with a leading axis of senders stand for, in their order. Like x."""

    def add(total, wire):
        if compressor.add is not None:
            return compressor.add(total, wire), None
        return total + compressor.decompress(wire).astype(jnp.float32), None

    zeros, *_ = align(jnp.zeros(x.shape, jnp.float32), *jax.tree.leaves(wires))
    return lax.scan(add, zeros, wires)[0]


def agree(fine: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """Whether all senders along the axes say so."""
    size_of(axes)  # that they are named
    return lax.pmin(fine.astype(jnp.int32), axes) > 0 if axes else fine


def agree_nbytes(axes: tuple[str, ...]) -> int:
    """What a device sends for that."""
    return dense_nbytes(jax.ShapeDtypeStruct((), jnp.int32), axes) if axes else 0


def gather(parts: Any, axis_name: str) -> Any:
    """Every array of every sender: [senders, ...]."""
    size_of(axis_name)  # that it is named
    return jax.tree.map(lambda part: lax.all_gather(part, axis_name), parts)


def to_owners(parts: Any, axis_name: str) -> Any:
    """Row j of every array to sender j; what comes has a row from each sender.

    Arrays that are the same in all lanes of a vmap, as gradients of what a loss does not use, are
    made each lane's own: jax 0.10 gives lax.all_to_all of others too many axes.
    """
    here = lax.axis_index(axis_name) >= 0

    def move(part):
        return lax.all_to_all(jnp.where(here, part, part), axis_name, 0, 0, tiled=True)

    return jax.tree.map(move, parts)


def gather_nbytes(nbytes: int, senders: int) -> int:
    """Of an all-gather where each has this much: all but one of the parts pass through a device."""
    return (senders - 1) * nbytes


def reduce_nbytes(nbytes: int, senders: int) -> int:
    """Of an all-reduce of this much on a ring: 2 (N - 1) / N of it, rounded up."""
    return -(-2 * (senders - 1) * nbytes // senders)


def dense_nbytes(x: Any, axes: tuple[str, ...]) -> int:
    """What the same array costs as it is: an all-reduce along the axes; its bytes without axes."""
    nbytes = tree.nbytes(jax.ShapeDtypeStruct(x.shape, x.dtype))
    if not axes:
        return nbytes
    return reduce_nbytes(nbytes, size_of(axes))


def shards(x: jax.Array, count: int, multiple: int = 1) -> jax.Array:
    """x, flattened and filled up with zeros, as equal rows: [count, size]."""
    length = shard_of(x.size, count, multiple)
    return jnp.pad(x.reshape(-1), (0, count * length - x.size)).reshape(count, length)


def shard_of(size: int, count: int, multiple: int = 1) -> int:
    """Entries of a row of shards()."""
    return max(1, -(-size // (count * multiple))) * multiple
