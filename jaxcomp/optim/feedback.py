"""What the methods of this folder share: an exchange of the leaves of gradients, with memories.

    m = message(g, memory)
    (sent, mean) = exchange(m)
    (out, memory) = result(m, sent, mean, memory)

As an optax.GradientTransformation inside shard_map or vmap: gradients of one sender to their mean
over all, as the exchange makes it. With a compressor in place of an exchange senders do not meet:
what comes out is what this one sends, decompressed, to be averaged by whoever calls. It comes
before what steps (chain(..., sgd)); or behind the learning rate, where that changes much: then
errors are kept in units of steps.

Gradients that are not finite go through, so that all see them, and leave all memories as they were:
the next step goes on as if it had not been. Senders agree on that before anything else, by an
all-reduce of 4 bytes: no leaf then waits for the others, and memories are written in their place.
Memories are float32; what is sent has the dtype of the gradients, and what its rounding loses
counts as not sent.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcomp.base import Compressor, Exchange
from jaxcomp.optim.compressed_mean import dense_over
from jaxcomp.optim.exchange import agree, agree_nbytes, dense_nbytes, exchange_of
from jaxcomp.optim.log import Log, start, step
from jaxcomp.optim.random import fold
from jaxcomp.optim.senders import PerSender
from jaxcomp.optim.wire import all_finite
from jaxcomp.tree import path_text


class FeedbackState(NamedTuple):
    """A pytree of arrays: what a run resumes from, bit for bit.

    key u32[2]: randomness is the key folded with step, leaf and sender
    log: what has been sent
    shared: like the parameters, f32; the same for all senders; None where nothing is
    own: PerSender, of a pair: the memory, like the parameters, f32, a tuple in place of each leaf
    where it has several, None where nothing is kept; and the states of the exchange, for each leaf
    """

    key: jax.Array
    log: Log
    shared: Any
    own: PerSender


def feedback(
    method: Compressor | Exchange,
    message: Callable[[jax.Array, Any, Any], jax.Array],
    result: Callable[..., tuple[jax.Array, Any, Any]],
    *,
    remembers: int,
    shares: bool = False,
    before: Callable[[jax.Array, Any], Any] | None = None,
    unchosen: Callable[..., tuple[jax.Array, Any, Any]] | None = None,
    seed: int = 0,
    where: Callable[[str, Any], bool] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformation:
    """message(g, memory, shared) -> what is sent of one leaf, f32
    result(message, sent, mean, memory, shared) -> (out, memory, shared)

    remembers: how many arrays of a sender's own there are for a leaf; memory is a tuple of them
    where there are several. shares: whether there is one that all have alike. before(g, memory) ->
    memory: what a gradient does to it first, as momentum does. where(path, leaf): what is
    compressed, all by default; other leaves go as they are, and have `unchosen` for their result
    if it is given. axis_name: with a compressor, of senders under shard_map or vmap, which then
    draw apart; without, alike.
    """
    exchange = exchange_of(method, axis_name)
    whole = dense_over(exchange.axes)

    def of_leaves(params):
        found, structure = jax.tree_util.tree_flatten_with_path(params)
        return structure, [
            exchange if where is None or where(path_text(path), leaf) else whole
            for path, leaf in found
        ]

    def init(params):
        structure, exchanges = of_leaves(params)
        leaves = [jnp.asarray(leaf) for leaf in structure.flatten_up_to(params)]

        def zeros(count):  # arrays of their own each time, as a step may be given them to keep
            each = [[jnp.zeros(x.shape, jnp.float32) for _ in range(count)] for x in leaves]
            return structure.unflatten([x[0] if count == 1 else tuple(x) for x in each])

        inner = tuple(
            e.init(jnp.zeros(x.shape, x.dtype)) for e, x in zip(exchanges, leaves, strict=True)
        )
        return FeedbackState(
            key=fold(jnp.zeros(2, jnp.uint32), seed),
            log=start(),
            shared=zeros(1) if shares else None,
            own=PerSender((zeros(int(remembers)) if remembers else None, inner)),
        )

    def update(updates, state, params=None):
        structure, exchanges = of_leaves(updates)
        gradients = [jnp.asarray(g) for g in structure.flatten_up_to(updates)]
        none = [None] * len(gradients)
        own_memory, own_inner = state.own.value
        memory = structure.flatten_up_to(own_memory) if remembers else none
        shared = structure.flatten_up_to(state.shared) if shares else none
        keys = fold(state.key, state.log.count, jnp.arange(len(gradients)))
        agreed = agree(all_finite(*gradients), exchange.axes)
        finite = [agreed]
        outs, memories, alike, inners, errors = [], [], [], [], []
        for i, (e, g) in enumerate(zip(exchanges, gradients, strict=True)):
            wide = g.astype(jnp.float32)
            held = memory[i] if before is None else before(wide, memory[i])
            x = message(wide, held, shared[i])
            sent, mean, inner = e.mean(keys[i], x.astype(g.dtype), own_inner[i])
            ends = result if unchosen is None or e is exchange else unchosen
            out, kept, same = ends(x, sent, mean, held, shared[i])
            fine = agreed & all_finite(out)  # sums can overflow
            keep = functools.partial(jax.tree.map, functools.partial(jnp.where, fine))
            outs.append(out)
            finite.append(fine)
            memories.append(keep(kept, memory[i]))
            alike.append(keep(same, shared[i]))
            inners.append(keep(inner, own_inner[i]))
            errors.append(jnp.square(x - sent).sum())
        memory = structure.unflatten(memories) if remembers else None
        sent_nbytes = sum(e.nbytes(g) for e, g in zip(exchanges, gradients, strict=True))
        sent_nbytes += agree_nbytes(exchange.axes)
        dense = sum(dense_nbytes(g, exchange.axes) for g in gradients)
        error = jnp.sqrt(sum(errors, jnp.zeros(())))
        new = FeedbackState(
            key=state.key,
            log=step(state.log, jnp.stack(finite).all(), error, sent_nbytes, dense),
            shared=structure.unflatten(alike) if shares else None,
            own=PerSender((memory, tuple(inners))),
        )
        outs = [out.astype(g.dtype) for out, g in zip(outs, gradients, strict=True)]
        return structure.unflatten(outs), new

    return optax.GradientTransformation(init, update)
