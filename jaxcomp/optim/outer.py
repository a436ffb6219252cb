"""Outer steps: each sender trains alone for a while; an optimizer steps along how far they came.

    x_i <- x_i + inner(g_i)                                   at every step, from x_i = x
    d = mean of C(x - x_i + e),   e <- what C has not sent,   x, x_i <- x + outer(d)    each H steps

The difference d takes the place of a gradient: a pseudo-gradient. Senders meet once in H steps, for
links between data centres. Douillard et al., DiLoCo, 2023, algorithm 1: inner is AdamW, whose state
every sender keeps, outer SGD with Nesterov's momentum, H = 500. We differ: d is compressed, with
error feedback, where an exchange does so.

With `overlap` what senders sent is used a round later, so that nobody waits for it: the collective
has H steps to run beside, in a program that holds a whole round. Every sender then begins at a
point that its own last round is not in. Kale et al., Eager Updates for Overlapped Communication and
Computation in DiLoCo, 2025, where this is the plain way; eager updates are not offered.

Senders have parameters of their own between means: gradients are taken at own_params(params,
state), and params are those of the last mean.

In the test's regression, H = 8, four bits end where whole differences do, at 0.273 of the distance
at the start (averages, an outer SGD of rate 1: 0.62; Adam with a mean at every step: 0.35), in 47
times fewer bytes than gradients have; signs at 0.30, whole ones with overlap at 0.28. At six times
the inner rate Nesterov's momentum is too much for what comes late: 0.58 whole and in four bits, 1.8
in signs, 2.2 with overlap. There outer SGD of rate 1 is better, with signs at 0.21.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxcomp.base import Exchange, UnsupportedInput
from jaxcomp.optim.exchange import dense_nbytes
from jaxcomp.optim.leaves import (
    mean_all,
    meeting,
    nbytes_all,
    norm,
    of_leaves,
    pick,
    start_all,
    zeros_like,
)
from jaxcomp.optim.log import Log, start, step
from jaxcomp.optim.own_params import Away, own_params
from jaxcomp.optim.random import fold
from jaxcomp.optim.senders import PerSender, Total
from jaxcomp.optim.sharded import check_shapes
from jaxcomp.optim.wire import all_finite
from jaxcomp.tree import Where

# Douillard et al. 2023, section 3.1: the best of those that they tried.
NESTEROV = optax.sgd(0.7, momentum=0.9, nesterov=True)


class OuterState(NamedTuple):
    """key u32[2]; log, whose count says when senders meet
    outer: the state of the outer optimizer, the same for all senders
    pending: with overlap the last d, like the parameters, f32; else None
    away: what the sender's parameters have beyond those of all
    own: PerSender: the state of inner; e, like the parameters, f32, or None; the states of the
    exchange; and a Total, i32, steps since the last mean whose gradients were not finite
    """

    key: jax.Array
    log: Log
    outer: Any
    pending: Any
    away: Away
    own: PerSender


def outer(
    inner: optax.GradientTransformation,
    method: Exchange,
    *,
    every: int,
    optimizer: optax.GradientTransformation = NESTEROV,
    overlap: bool = False,
    remembers: bool = True,
    seed: int = 0,
    where: Where | None = None,
) -> optax.GradientTransformation:
    """inner: each sender's own, as optax.adamw(1e-3); method: how pseudo-gradients meet. Where
    chips of a slice meet at every step, and slices here, inner has the chips' mean in it:
    chain(compressed(dense_mean("chips")), adamw(1e-3)).

    every: H, in steps. optimizer: of the shared parameters. remembers: whether e is kept, for
    compressors with a contraction; False is for unbiased ones. where(path, leaf): what is
    compressed. A sender does not move in a step whose gradients are not finite; the log counts
    these steps when senders meet.
    """
    if type(every) is not int or every < 1:
        raise UnsupportedInput(f"expected every of at least 1 step, got {every!r}; 500 is usual")
    exchange = meeting(method, "outer")

    def init(params):
        structure, exchanges = of_leaves(params, exchange, where)
        leaves = [jnp.asarray(leaf) for leaf in structure.flatten_up_to(params)]
        zeros = [structure.unflatten(zeros_like(leaves)) for _ in range(3)]
        return OuterState(
            key=fold(jnp.zeros(2, jnp.uint32), seed),
            log=start(),
            outer=optimizer.init(params),
            pending=zeros[0] if overlap else None,
            away=Away(PerSender(zeros[1])),
            own=PerSender(
                (
                    inner.init(params),
                    zeros[2] if remembers else None,
                    start_all(exchanges, leaves),
                    Total(jnp.zeros((), jnp.int32)),
                )
            ),
        )

    def update(updates, state, params=None):
        if params is None:
            raise UnsupportedInput(
                "expected params, got None; outer steps from them: update(gradients, state, params)"
            )
        structure, exchanges = of_leaves(updates, exchange, where)
        leaves = [jnp.asarray(g) for g in structure.flatten_up_to(updates)]
        check_shapes(leaves, params)
        old_inner, memory, states, missed = state.own.value
        missed = missed.value
        old_away = structure.flatten_up_to(state.away.value.value)
        errors = structure.flatten_up_to(memory) if remembers else zeros_like(leaves)

        steps, new_inner = inner.update(updates, old_inner, own_params(params, state))
        steps = [jnp.asarray(x).astype(jnp.float32) for x in structure.flatten_up_to(steps)]
        away = [a + x for a, x in zip(old_away, steps, strict=True)]
        fine = all_finite(*leaves, *away)
        away, new_inner = pick(fine, (away, new_inner), (old_away, old_inner))
        missed = missed + 1 - fine.astype(jnp.int32)
        sent_nbytes, dense = nbytes_all(exchanges, leaves, exchange.axes)

        def alone():
            log = step(state.log, jnp.array(True), state.log.error_norm.value, 0, dense)
            kept = (memory, states, missed)
            zeros = [jnp.zeros_like(x) for x in leaves]
            return structure.unflatten(zeros), log, state.outer, state.pending, away, kept

        def meet():
            key = fold(state.key, state.log.count)
            messages = [e - a for e, a in zip(errors, away, strict=True)]
            sent, means, ends = mean_all(exchanges, key, messages, leaves, states)
            lost = [x - s for x, s in zip(messages, sent, strict=True)]
            finite = all_finite(*means)
            found = structure.unflatten(means)
            used, pending = (state.pending, found) if overlap else (found, None)
            used = jax.tree.map(lambda x, p: x.astype(jnp.asarray(p).dtype), used, params)
            out, new_outer = optimizer.update(used, state.outer, params)
            out = jax.tree.map(lambda x: jnp.where(finite, x, jnp.nan), out)
            out = jax.tree.map(lambda x, g: x.astype(g.dtype), out, structure.unflatten(leaves))
            new = new_outer, pending, structure.unflatten(lost) if remembers else None, ends
            old = state.outer, state.pending, memory, states
            new_outer, pending, new_memory, ends = pick(finite, new, old)
            number = dense_nbytes(missed, exchange.axes)
            log = step(state.log, finite, norm(lost), sent_nbytes + number, dense)
            log = log._replace(skipped=log.skipped + lax.psum(missed, exchange.axes))
            kept = (new_memory, ends, jnp.zeros_like(missed))
            return out, log, new_outer, pending, zeros_like(leaves), kept

        meets = (state.log.count + 1) % every == 0
        out, log, new_outer, pending, away, kept = lax.cond(meets, meet, alone)
        new = OuterState(
            key=state.key,
            log=log,
            outer=new_outer,
            pending=pending,
            away=Away(PerSender(structure.unflatten(away))),
            own=PerSender((new_inner, *kept[:2], Total(kept[2]))),
        )
        return out, new

    return optax.GradientTransformation(init, update)
