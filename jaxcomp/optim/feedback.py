"""What the methods of this folder share: a compressor over the leaves of gradients, with a memory.

    sent = C(message(g, memory)),     (out, memory) = result(message, sent, memory)

As an optax.GradientTransformation: what a sender sends of its own gradients, decompressed. An
average over senders is taken of what it returns. It comes before what steps (chain(..., sgd)); or
behind the learning rate, where that changes much: then errors are kept in units of steps.

Gradients that are not finite go through, so that they are seen, and leave all memories as they
were: the next step goes on as if it had not been. Memories are float32; what is sent has the dtype
of the gradients, and what its rounding loses counts as not sent.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxcomp.base import Compressor
from jaxcomp.optim.identity import identity
from jaxcomp.optim.random import fold
from jaxcomp.optim.wire import all_finite, wire_nbytes
from jaxcomp.tree import path_text

WORD = 1 << 32  # sizes are kept as two words: a wire may have more than 4 GiB


class FeedbackState(NamedTuple):
    """A pytree of arrays: what a run resumes from, bit for bit.

    key u32[2] and count i32: randomness is the key folded with step, leaf and sender
    skipped i32: steps whose gradients were not finite
    error_norm f32: of what the last finite step did not send, |message - sent|
    nbytes u32[2, 2]: of the wire and of the gradients of one step, low words first
    memory: like the parameters, f32; None where nothing is kept
    inner: the states of the compressor, one for each leaf
    """

    key: jax.Array
    count: jax.Array
    skipped: jax.Array
    error_norm: jax.Array
    nbytes: jax.Array
    memory: Any
    inner: tuple[Any, ...]


def feedback(
    compressor: Compressor,
    message: Callable[[jax.Array, Any], jax.Array],
    result: Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]],
    *,
    remembers: bool,
    seed: int = 0,
    where: Callable[[str, Any], bool] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformation:
    """where(path, leaf): what is compressed, all by default; other leaves are sent as they are.

    axis_name: of senders under shard_map or vmap, which then draw apart; without, alike.
    """

    def of_leaves(params):
        found, structure = jax.tree_util.tree_flatten_with_path(params)
        whole = identity()
        return structure, [
            compressor if where is None or where(path_text(path), leaf) else whole
            for path, leaf in found
        ]

    def init(params):
        structure, compressors = of_leaves(params)
        leaves = [jnp.asarray(leaf) for leaf in structure.flatten_up_to(params)]
        wire = sum(wire_nbytes(c, leaf) for c, leaf in zip(compressors, leaves, strict=True))
        dense = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        zeros = [jnp.zeros(leaf.shape, jnp.float32) for leaf in leaves]
        return FeedbackState(
            key=fold(jnp.zeros(2, jnp.uint32), seed),
            count=jnp.zeros((), jnp.int32),
            skipped=jnp.zeros((), jnp.int32),
            error_norm=jnp.zeros(()),
            nbytes=jnp.array([[n % WORD, n // WORD] for n in (wire, dense)], jnp.uint32),
            memory=structure.unflatten(zeros) if remembers else None,
            inner=tuple(c.init(x) for c, x in zip(compressors, zeros, strict=True)),
        )

    def update(updates, state, params=None):
        structure, compressors = of_leaves(updates)
        gradients = structure.flatten_up_to(updates)
        memory = structure.flatten_up_to(state.memory) if remembers else [None] * len(gradients)
        sender = () if axis_name is None else (lax.axis_index(axis_name),)
        keys = fold(state.key, state.count, *sender, jnp.arange(len(gradients)))
        outs, memories, inners, errors = [], [], [], []
        for i, (c, g, kept) in enumerate(zip(compressors, gradients, memory, strict=True)):
            x = message(g.astype(jnp.float32), kept)
            wire, inner = c.compress(keys[i], x.astype(g.dtype), state.inner[i])
            sent = c.decompress(wire).astype(jnp.float32)
            out, kept = result(x, sent, kept)
            outs.append(out)
            memories.append(kept)
            inners.append(inner)
            errors.append(jnp.square(x - sent).sum())
        finite = all_finite(*outs) if outs else jnp.array(True)
        keep = functools.partial(jax.tree.map, lambda new, old: jnp.where(finite, new, old))
        error = jnp.sqrt(sum(errors, jnp.zeros(())))
        new = FeedbackState(
            key=state.key,
            count=state.count + 1,
            skipped=state.skipped + 1 - finite.astype(jnp.int32),
            error_norm=keep(error, state.error_norm),
            nbytes=state.nbytes,
            memory=keep(structure.unflatten(memories), state.memory) if remembers else None,
            inner=keep(tuple(inners), state.inner),
        )
        outs = [out.astype(g.dtype) for out, g in zip(outs, gradients, strict=True)]
        return structure.unflatten(outs), new

    return optax.GradientTransformation(init, update)
