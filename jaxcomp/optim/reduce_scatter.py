"""Gradients of sharded parameters: whole on every device, to each device's shard of the mean.

    s_ij = C(g_ij + e_ij),     out_j = 1/N sum_i s_ij in float32,     e_ij <- g_ij + e_ij - s_ij

Device i sends shard j of its gradient, compressed, to device j, which adds up: one all-to-all, half
of what an all-reduce sends, and no sum is made in few bits. Wang et al., ZeRO++, 2023, section 3.3
(qgZ); feedback at the sender is that of Xie et al., LoCo, 2024, whose buffer is int8 too. We
differ: the mean over further axes is a method of its own, behind this one, on shards:

    whole = all_gather(identity(), params, "shard", specs)
    gradients = jax.grad(loss)(whole, batch)              not through the gather: that would add up
    optax.chain(
        reduce_scatter(quantized(INT8), "shard", specs, replicas="data"),
        error_feedback(gathered(top_k(0.01), "data")),    on shards: "shard" is no axis of senders
        optax.sgd(0.1),
    )

Behind this one every method works that treats entries or blocks alike, with shards for leaves: all
compressors and exchanges along other axes, 8-bit optimizers. One that takes a norm over leaves
takes that of the device's shards. Methods that meet along "shard" itself need whole parameters: of
shards their means would be of unlike things; whole gradients of shards they refuse. on_sharded runs
such a step.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from jaxcomp import tree
from jaxcomp.base import Compressor, UnsupportedInput
from jaxcomp.optim.compressed_mean import dense_mean, scatter
from jaxcomp.optim.exchange import (
    agree,
    agree_nbytes,
    dense_nbytes,
    gather_nbytes,
    sender_key,
    size_of,
)
from jaxcomp.optim.identity import identity
from jaxcomp.optim.leaves import pick
from jaxcomp.optim.log import Log, start, step
from jaxcomp.optim.random import fold
from jaxcomp.optim.senders import PerSender
from jaxcomp.optim.wire import all_finite, narrowed, wire_nbytes
from jaxcomp.tree import path_text


class ReduceScatterState(NamedTuple):
    """key and log as of FeedbackState; own: PerSender, of a pair: for each leaf the wire that keeps
    e, like the whole gradient, and the compressor's states; () for leaves that are not sharded.
    """

    key: jax.Array
    log: Log
    own: PerSender


def reduce_scatter(
    compressor: Compressor,
    axis_name: str,
    specs: Any,
    *,
    memory: Compressor | None = None,
    replicas: str | Sequence[str] = (),
    seed: int = 0,
) -> optax.GradientTransformation:
    """specs: jax.sharding.PartitionSpec of the parameters, as shard_map takes them; one may stand
    for a subtree. Leaves without the axis go to their mean as they are.

    init takes shards. memory: what e is kept in: identity(), float32, by default; quantized(INT8)
    for a quarter of it. replicas: further axes, along which devices have the same shards and other
    gradients; compressors that draw then draw apart along them, and else alike. Where one device
    has a gradient or a sum that is not finite, all shards become NaN and memories stay. The wire of
    a shard is that of a vector of its own.
    """
    whole = dense_mean(axis_name)
    replicas = (replicas,) if isinstance(replicas, str) else tuple(replicas)
    buffer = identity() if memory is None else memory
    if buffer.variance is None and buffer.contraction is None:
        raise UnsupportedInput(f"expected memory to contract, got {buffer.name}; quantized(INT8)")

    def keep(key, error):
        return buffer.compress(key, error, buffer.init(error))[0]

    def init(params):
        count = size_of(axis_name)
        wires, inner, leaves = [], [], jax.tree.leaves(params)
        none = jnp.zeros(2, jnp.uint32)
        for x, axis in zip(leaves, sharded_axes(specs, params, axis_name), strict=True):
            if axis is None:
                wires.append(())
                inner.append(whole.init(x))
                continue
            shape = whole_shape(x.shape, axis, count)
            wires.append(keep(none, jnp.zeros(shape, jnp.float32)))
            first = compressor.init(jnp.zeros(x.size, x.dtype))
            inner.append(jax.tree.map(lambda part: jnp.stack([part] * count), first))
        return ReduceScatterState(
            key=fold(jnp.zeros(2, jnp.uint32), seed),
            log=start(),
            own=PerSender((tuple(wires), tuple(inner))),
        )

    def update(updates, state, params=None):
        leaves, structure = jax.tree.flatten(updates)
        wires, inner = state.own.value
        keys = fold(state.key, state.log.count, jnp.arange(len(leaves)))
        outs, kept, states, errors, sent_nbytes, dense = [], [], [], [], 0, 0
        for i, axis in enumerate(sharded_axes(specs, updates, axis_name)):
            g = jnp.asarray(leaves[i])
            if axis is None:
                _, out, after = whole.mean(keys[i], g, inner[i])
                wire, lost = (), jnp.zeros(())
            else:
                _check(g, wires[i].shape)
                x = g.astype(jnp.float32) + buffer.decompress(wires[i])
                own = functools.reduce(sender_key, (*replicas, axis_name), keys[i])
                sent, out, after = _scatter(compressor, own, x, g.dtype, axis, inner[i], axis_name)
                wire, lost = keep(own, x - sent), jnp.square(x - sent).sum()
            outs.append(out.astype(g.dtype))
            kept.append(wire)
            states.append(after)
            errors.append(lost)
            more = _nbytes(compressor, g, axis, axis_name)
            sent_nbytes, dense = sent_nbytes + more[0], dense + more[1]
        # What is owed and what comes add up, beyond a float in the end: a shard's owner sees that.
        finite = all_finite(*leaves, *outs) if leaves else jnp.array(True)
        finite = agree(finite, (axis_name,))
        error = jnp.sqrt(sum(errors, jnp.zeros(())))
        sent_nbytes += agree_nbytes((axis_name,))
        new = ReduceScatterState(
            key=state.key,
            log=step(state.log, finite, error, sent_nbytes, dense),
            own=PerSender(pick(finite, (tuple(kept), tuple(states)), state.own.value)),
        )
        return structure.unflatten([jnp.where(finite, out, jnp.nan) for out in outs]), new

    return optax.GradientTransformation(init, update)


def _scatter(compressor, key, x, dtype, axis, state, axis_name):
    """(what was sent f32 like x, f32 shard of the mean, state)"""
    count = size_of(axis_name)
    front = jnp.moveaxis(x, axis, 0)
    sent, total, state = scatter(compressor, key, narrowed(front, dtype), state, axis_name)
    shard = (total / count).reshape(front.shape[0] // count, *front.shape[1:])
    return jnp.moveaxis(sent, 0, axis), jnp.moveaxis(shard, 0, axis), state


def _nbytes(compressor, g, axis, axis_name):
    """What one device sends for a leaf, and would send as it is."""
    count = size_of(axis_name)
    if axis is None:
        return dense_mean(axis_name).nbytes(g), dense_nbytes(g, (axis_name,))
    shard = jax.ShapeDtypeStruct((g.size // count,), g.dtype)
    return tuple(
        gather_nbytes(nbytes, count)
        for nbytes in (wire_nbytes(compressor, shard), tree.nbytes(shard))
    )


def _check(g, shape):
    if g.shape != shape:
        raise UnsupportedInput(
            f"expected the whole gradient {shape} of a shard, got {g.shape}; take gradients with "
            "respect to what all_gather has made of the parameters, not through it"
        )


def whole_shape(shape: tuple[int, ...], axis: int, count: int) -> tuple[int, ...]:
    """Of what shards of this shape are parts of."""
    return (*shape[:axis], shape[axis] * count, *shape[axis + 1 :])


def sharded_axes(specs: Any, params: Any, axis_name: str) -> list[int | None]:
    """For each leaf, which of its axes the mesh's axis cuts; None for none."""
    is_spec = lambda x: isinstance(x, PartitionSpec)  # noqa: E731
    found, _ = jax.tree_util.tree_flatten_with_path(params)
    try:
        every = jax.tree.broadcast(specs, params, is_leaf=is_spec)
    except ValueError as error:
        raise UnsupportedInput(
            f"expected specs like the parameters, PartitionSpec for arrays or subtrees, got {error}"
        ) from error
    every = jax.tree.leaves(every, is_leaf=is_spec)
    return [
        _axis(path_text(path), leaf, spec, axis_name)
        for (path, leaf), spec in zip(found, every, strict=True)
    ]


def _axis(path, leaf, spec, axis_name):
    if not isinstance(spec, PartitionSpec):
        raise UnsupportedInput(f"expected a PartitionSpec for {path!r}, got {spec!r}")
    names = [(entry,) if isinstance(entry, str) else entry or () for entry in spec]
    cut = [i for i, entry in enumerate(names) if axis_name in entry]
    if not cut:
        return None
    if len(names[cut[0]]) > 1 or cut[0] >= jnp.ndim(leaf):
        raise UnsupportedInput(
            f"expected {path!r}, of {jnp.ndim(leaf)} axes, to be cut along one of them by "
            f"{axis_name!r} alone, got {spec}; name one axis of the mesh for each of the array's"
        )
    return cut[0]
