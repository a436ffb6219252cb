"""What methods share that meet in steps of their own: the leaves of gradients, each to its mean.

Lists have one entry for each leaf. Some leaves may go as they are, along the same axes.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcomp.base import Compressor, Exchange, UnsupportedInput
from jaxcomp.optim.compressed_mean import dense_over
from jaxcomp.optim.exchange import dense_nbytes, exchange_of
from jaxcomp.optim.random import fold
from jaxcomp.optim.wire import narrowed
from jaxcomp.tree import Where, path_text


def meeting(method: Compressor | Exchange, name: str) -> Exchange:
    """The exchange. UnsupportedInput where senders do not meet: the method needs their mean."""
    exchange = exchange_of(method)
    if not exchange.axes:
        raise UnsupportedInput(
            f"expected an exchange, got the compressor {exchange.name}: {name} keeps what senders "
            f"have come to together; compressed_mean({exchange.name}(), 'data'), say"
        )
    return exchange


def of_leaves(tree: Any, exchange: Exchange, where: Where | None) -> tuple[Any, list[Exchange]]:
    """(structure, exchanges): of leaves that where(path, leaf) leaves out, the dense one."""
    found, structure = jax.tree_util.tree_flatten_with_path(tree)
    whole = dense_over(exchange.axes)
    chosen = [where is None or where(path_text(path), leaf) for path, leaf in found]
    return structure, [exchange if yes else whole for yes in chosen]


def start_all(exchanges: Sequence[Exchange], leaves: Sequence[jax.Array]) -> tuple[Any, ...]:
    """The states of the exchanges, before the first mean."""
    pairs = zip(exchanges, leaves, strict=True)
    return tuple(e.init(jnp.zeros(x.shape, x.dtype)) for e, x in pairs)


def mean_all(
    exchanges: Sequence[Exchange],
    key: jax.Array,
    messages: Sequence[jax.Array],
    leaves: Sequence[jax.Array],
    states: Sequence[Any],
) -> tuple[list[jax.Array], list[jax.Array], tuple[Any, ...]]:
    """(sent f32, mean f32, states) of messages f32, each sent in the dtype of its leaf.

    key: of the step; leaves draw apart.
    """
    keys = fold(key, jnp.arange(len(leaves)))
    found = [
        e.mean(keys[i], narrowed(x, leaf.dtype), state)
        for i, (e, x, leaf, state) in enumerate(
            zip(exchanges, messages, leaves, states, strict=True)
        )
    ]
    return [f[0] for f in found], [f[1] for f in found], tuple(f[2] for f in found)


def nbytes_all(
    exchanges: Sequence[Exchange], leaves: Sequence[jax.Array], axes: tuple[str, ...]
) -> tuple[int, int]:
    """(what a device sends for one mean of all, what it would send with all as they are)."""
    sent = sum(e.nbytes(x) for e, x in zip(exchanges, leaves, strict=True))
    return sent, sum(dense_nbytes(x, axes) for x in leaves)


def norm(arrays: Sequence[jax.Array]) -> jax.Array:
    """f32[]: the length of all entries together."""
    return jnp.sqrt(sum((jnp.square(x).sum() for x in arrays), jnp.zeros(())))


def zeros_like(leaves: Sequence[jax.Array]) -> list[jax.Array]:
    """Of float32."""
    return [jnp.zeros(x.shape, jnp.float32) for x in leaves]


def pick(condition: jax.Array, new: Any, old: Any) -> Any:
    """One of two pytrees."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def keep(fine: Sequence[jax.Array], new: Sequence[Any], old: Sequence[Any]) -> Sequence[Any]:
    """Of each leaf what is new where that is fine, like `old`: no leaf waits for the others."""
    return type(old)(pick(f, a, b) for f, a, b in zip(fine, new, old, strict=True))
