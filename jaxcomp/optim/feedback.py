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
What follows should not remember them either: chain(error_feedback(...), apply_if_finite(adam(...),
5)). Around this one optax.apply_if_finite lets each sender ask its own gradient; some do not meet.
Memories are float32; what is sent has the dtype of the gradients, and what its rounding loses
counts as not sent.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxcomp.base import Compressor, Exchange, UnsupportedInput
from jaxcomp.optim.compressed_mean import dense_over
from jaxcomp.optim.exchange import agree, agree_nbytes, dense_nbytes, exchange_of
from jaxcomp.optim.leaves import pick
from jaxcomp.optim.log import Log, start, step
from jaxcomp.optim.random import fold
from jaxcomp.optim.senders import PerSender
from jaxcomp.optim.sharded import check_shapes
from jaxcomp.optim.wire import all_finite, narrowed
from jaxcomp.tree import Where, path_text


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
    where: Where | None = None,
    layers: Where | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformation:
    """message(g, memory, shared) -> what is sent of one leaf, f32
    result(message, sent, mean, memory, shared) -> (out, memory, shared)

    remembers: how many arrays of a sender's own there are for a leaf; memory is a tuple of them
    where there are several. shares: whether there is one that all have alike. before(g, memory) ->
    memory: what a gradient does to it first, as momentum does.
    where(path, leaf): what is compressed, all by default; other leaves go as they are, and have
    `unchosen` for their result if it is given. layers(path, leaf): whose first axis counts layers,
    as of a model under scan; each layer is a leaf of its own then, in a loop that needs the room of
    one. axis_name: with a compressor, of senders under shard_map or vmap, which then draw apart and
    skip steps together. Without it they draw alike, and each skips its own: the log is then no
    longer the same for all, as on_senders takes it to be.
    """
    exchange = exchange_of(method, axis_name)
    whole, lone = dense_over(exchange.axes), not exchange.axes
    asked = (axis_name,) if lone and axis_name is not None else exchange.axes

    def of_leaves(params):
        """The structure, and of each leaf its exchange and its number of layers, 0 for a leaf."""
        found, structure = jax.tree_util.tree_flatten_with_path(params)
        found = [(path_text(path), leaf) for path, leaf in found]
        chosen = [exchange if where is None or where(*each) else whole for each in found]
        counts = [0 if layers is None or not layers(*each) else _layers(*each) for each in found]
        return structure, list(zip(chosen, counts, strict=True))

    def init(params):
        structure, plans = of_leaves(params)
        leaves = [jnp.asarray(leaf) for leaf in structure.flatten_up_to(params)]

        def zeros(count):  # arrays of their own each time, as a step may be given them to keep
            each = [[jnp.zeros(x.shape, jnp.float32) for _ in range(count)] for x in leaves]
            return structure.unflatten([x[0] if count == 1 else tuple(x) for x in each])

        def start_of(plan, x):
            e, count = plan
            if not count:
                return e.init(jnp.zeros(x.shape, x.dtype))
            one = e.init(jnp.zeros(x.shape[1:], x.dtype))
            return jax.tree.map(lambda part: jnp.stack([part] * count), one)

        inner = tuple(map(start_of, plans, leaves))
        return FeedbackState(
            key=fold(jnp.zeros(2, jnp.uint32), seed),
            log=start(),
            shared=zeros(1) if shares else None,
            own=PerSender((zeros(int(remembers)) if remembers else None, inner)),
        )

    def one(e, agreed, key, g, memory, shared, inner):
        """(out, memory, shared, inner, |message - sent|^2, whether all is finite) of one array."""
        wide = g.astype(jnp.float32)
        held = memory if before is None else before(wide, memory)
        x = message(wide, held, shared)
        sent, mean, after = e.mean(key, narrowed(x, g.dtype), inner)
        ends = result if unchosen is None or e is exchange else unchosen
        out, kept, same = ends(x, sent, mean, held, shared)
        fine = agreed & all_finite(out)  # sums can overflow
        kept, same, after = pick(fine, (kept, same, after), (memory, shared, inner))
        return out.astype(g.dtype), kept, same, after, jnp.square(x - sent).sum(), fine

    def update(updates, state, params=None):
        structure, plans = of_leaves(updates)
        gradients = [jnp.asarray(g) for g in structure.flatten_up_to(updates)]
        none = [None] * len(gradients)
        own_memory, own_inner = state.own.value
        check_shapes(
            gradients, own_memory if remembers else gradients if params is None else params
        )
        memory = structure.flatten_up_to(own_memory) if remembers else none
        shared = structure.flatten_up_to(state.shared) if shares else none
        keys = fold(state.key, state.log.count, jnp.arange(len(gradients)))
        agreed = agree(all_finite(*gradients), asked)
        sent_nbytes, found = agree_nbytes(asked), []
        for (e, count), *parts in zip(
            plans, keys, gradients, memory, shared, own_inner, strict=True
        ):
            run, g = functools.partial(one, e, agreed), parts[1]
            found.append(_by_layer(run, *parts) if count else run(*parts))
            part = jax.ShapeDtypeStruct(g.shape[1:] if count else g.shape, g.dtype)
            sent_nbytes += max(1, count) * e.nbytes(part)
        outs, memories, alike, inners, errors, finite = (
            zip(*found, strict=True) if found else [()] * 6
        )
        memory = structure.unflatten(memories) if remembers else None
        # What lone senders send is not alike, and what is counted is.
        fine = agreed if lone and asked else jnp.stack([agreed, *finite]).all()
        dense = sum(dense_nbytes(g, exchange.axes) for g in gradients)
        error = jnp.sqrt(sum(errors, jnp.zeros(())))
        new = FeedbackState(
            key=state.key,
            log=step(state.log, fine, error, sent_nbytes, dense),
            shared=structure.unflatten(alike) if shares else None,
            own=PerSender((memory, tuple(inners))),
        )
        return structure.unflatten(outs), new

    return optax.GradientTransformation(init, update)


def _layers(path, leaf):
    if not jnp.shape(leaf) or not len(leaf):
        raise UnsupportedInput(
            f"expected layers to choose arrays whose first axis counts layers, got {path!r} of "
            f"shape {jnp.shape(leaf)}; leave it out"
        )
    return len(leaf)


def _by_layer(run, key, g, memory, shared, inner):
    """What run makes of each layer, one after the other, written where the layer was."""

    def turn(i, carry):
        held, error, fine = carry
        *new, off, good = run(fold(key, i), *jax.tree.map(lambda x: x[i], held))
        held = jax.tree.map(lambda x, y: x.at[i].set(y), held, tuple(new))
        return held, error + off, fine & good

    start = ((g, memory, shared, inner), jnp.zeros(()), jnp.array(True))
    held, error, fine = lax.fori_loop(0, len(g), turn, start)
    return *held, error, fine
