"""Two kinds of links: the mean as it is over the inner axis, compressed over the outer one.

    s_j = 1/n sum_inner x_ij,     t_j = exchange(s_j) over the outer axis,     mean = t_1 ... t_n

Chips of one slice are joined by links that gradients do not fill; slices, by a data-centre network
that they do. Chip j of each slice is answerable for shard j, so that nothing crosses the network
twice. What is lost there feedback keeps as n times the loss on shard j of chip j: its share of the
slice's mean. Wang et al., ZeRO++, 2023, section 3.3; we differ: the inner axis is not rounded.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.base import Exchange, UnsupportedInput
from jaxcomp.optim.compressed_mean import scatter
from jaxcomp.optim.exchange import (
    check_axis,
    exchange_of,
    gather,
    gather_nbytes,
    sender_key,
    shard_of,
    size_of,
)
from jaxcomp.optim.identity import identity


def hierarchical(exchange: Exchange, inner: str) -> Exchange:
    """exchange: over the outer axis, as gathered(top_k(0.01), "slices"); inner: the other axis."""
    check_axis(inner)
    exchange = exchange_of(exchange)
    if not exchange.axes or inner in exchange.axes:
        raise UnsupportedInput(
            f"expected an exchange over axes other than {inner!r}, got {exchange.axes}; "
            "hierarchical(gathered(top_k(0.01), 'slices'), inner='chips'), say"
        )
    whole = identity()

    def shard(x):
        return jax.ShapeDtypeStruct((shard_of(x.size, size_of(inner)),), x.dtype)

    def init(x):
        return exchange.init(jnp.zeros(shard(x).shape, x.dtype))

    def mean(key, x, state):
        count = size_of(inner)
        own = sender_key(key, inner)  # the same on all slices
        _, total, _ = scatter(whole, own, x, (), inner)
        local = total / count
        sent, out, state = exchange.mean(own, local.astype(x.dtype), state)
        lost = jnp.zeros((count, local.size)).at[lax.axis_index(inner)].set(count * (local - sent))
        out = gather(out.astype(x.dtype), inner)  # what crosses a link is of the gradients' dtype
        flat = jnp.stack([lost, out.astype(jnp.float32)]).reshape(2, -1)[:, : x.size]
        lost, out = flat.reshape(2, *x.shape)
        return x.astype(jnp.float32) - lost, out, state

    def nbytes(x):
        one = shard(x).size * x.dtype.itemsize
        return 2 * gather_nbytes(one, size_of(inner)) + exchange.nbytes(shard(x))

    return Exchange(init, mean, nbytes, (inner, *exchange.axes), f"hierarchical {exchange.name}")
