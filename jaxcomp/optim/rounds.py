"""Rounds of federated averaging: local steps of clients, one message each, a step of all.

    y_i <- y_i - rate_l (g_i(y_i) - c_i + c)       K times, from y_i = x;  G_i the mean of the g_i
    q_i = C(message of G_i, c_i)                   of the clients S that take part; 0 of the others
    x <- x - rate_g rate_l K (mean_S q_i / a + c),    c_i <- c_i + q_i,    c <- c + mean of all q_i

c_i is a client's control variate, the gradient that is expected of it, and c the mean of them:
local steps then follow what all clients want, not what one does. Methods are what the message is
and a; without controls, c_i = c = 0, it is federated averaging. Huang, Li, Li, Stochastic
Controlled Averaging for Federated Learning with Communication Compression, ICLR 2024.

There is no server: every device has x and c, and changes them by the same mean. Clients that do not
take part compute and send zeros, as programs of XLA do; in a network where they stay silent, uplink
is wire_nbytes for each client and round, and `uplinks` counts these. The
log counts rounds whose mean is not finite as skipped.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxcomp.base import Exchange, Rounds, UnsupportedInput
from jaxcomp.optim.exchange import agree, agree_nbytes
from jaxcomp.optim.leaves import (
    keep,
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
from jaxcomp.optim.random import fold
from jaxcomp.optim.senders import PerSender, Total
from jaxcomp.optim.wire import all_finite
from jaxcomp.tree import Where


class RoundsState(NamedTuple):
    """key u32[2]; log, where a round is a step
    control: c, like the parameters, f32, the same for all clients
    own: PerSender: c_i and the momentum, like the parameters, f32, None where there is none; and
    the states of the exchange
    uplinks: PerSender of a Total, i32: rounds that the client took part in
    """

    key: jax.Array
    log: Log
    control: Any
    own: PerSender
    uplinks: PerSender


def rounds(
    name: str,
    method: Exchange,
    message: Callable[..., tuple[jax.Array, Any]],
    *,
    local_rate: float,
    global_rate: float = 1.0,
    share: float = 1.0,
    controls: bool = True,
    remembers: bool = False,
    seed: int = 0,
    where: Where | None = None,
) -> Rounds:
    """message(G_i, c_i, momentum) -> (what is sent of one leaf, momentum), f32. share: a above.

    local_rate, global_rate: of steps. controls: whether c_i and c change. remembers: whether there
    is a momentum. where(path, leaf): what is compressed, all by default.
    """
    for label, value in (("local_rate", local_rate), ("global_rate", global_rate)):
        if not value > 0:
            raise UnsupportedInput(f"expected {label} above 0, got {value}; 0.1 and 1, say")
    exchange = meeting(method, name)

    def init(params):
        structure, exchanges = of_leaves(params, exchange, where)
        leaves = [jnp.asarray(leaf) for leaf in structure.flatten_up_to(params)]
        control, own, momentum = (structure.unflatten(zeros_like(leaves)) for _ in range(3))
        return RoundsState(
            key=fold(jnp.zeros(2, jnp.uint32), seed),
            log=start(),
            control=control,
            own=PerSender((own, momentum if remembers else None, start_all(exchanges, leaves))),
            uplinks=PerSender(Total(jnp.zeros((), jnp.int32))),
        )

    def round(params, state, gradient, batches, taking_part: ArrayLike = True):
        structure, exchanges = of_leaves(params, exchange, where)
        leaves = [jnp.asarray(x) for x in structure.flatten_up_to(params)]
        x = [leaf.astype(jnp.float32) for leaf in leaves]
        control = structure.flatten_up_to(state.control)
        own, momentum, states = state.own.value
        own = structure.flatten_up_to(own)
        momentum = structure.flatten_up_to(momentum) if remembers else [None] * len(leaves)
        part = jnp.asarray(taking_part).astype(bool).reshape(())
        steps = _steps(batches)

        def local(carry, batch):
            y, total = carry
            at = structure.unflatten([a.astype(b.dtype) for a, b in zip(y, leaves, strict=True)])
            found = structure.flatten_up_to(gradient(at, batch))
            found = [jnp.asarray(g).astype(jnp.float32) for g in found]
            y = [
                a - local_rate * (g - i + c)
                for a, g, i, c in zip(y, found, own, control, strict=True)
            ]
            return (y, [t + g for t, g in zip(total, found, strict=True)]), None

        (_, total), _ = lax.scan(local, (x, zeros_like(leaves)), batches)
        made = [message(t / steps, i, m) for t, i, m in zip(total, own, momentum, strict=True)]
        messages = [jnp.where(part, m, 0) for m, _ in made]
        key = fold(state.key, state.log.count)
        sent, means, ends = mean_all(exchanges, key, messages, leaves, states)

        everybody, present = (lax.psum(p, exchange.axes) for p in (1, part.astype(jnp.int32)))
        agreed = agree(all_finite(*messages), exchange.axes)
        finite = [agreed & all_finite(q) for q in means]  # sums can overflow
        happens = [f & (present > 0) for f in finite]
        scale = everybody / (share * jnp.maximum(present, 1))
        far = local_rate * global_rate * steps
        moved = [a - far * (scale * q + c) for a, q, c in zip(x, means, control, strict=True)]
        moved = [a.astype(b.dtype) for a, b in zip(moved, leaves, strict=True)]
        new_momentum = pick(part, [m for _, m in made], momentum)
        if controls:
            own = keep(
                [h & part for h in happens], [i + s for i, s in zip(own, sent, strict=True)], own
            )
            new_control = [c + q for c, q in zip(control, means, strict=True)]
        else:
            new_control = control
        new = moved, new_control, new_momentum, ends
        old = leaves, control, momentum, states
        pairs = zip(new, old, strict=True)
        moved, control, momentum, ends = (keep(happens, a, b) for a, b in pairs)

        nbytes, dense = nbytes_all(exchanges, leaves, exchange.axes)
        nbytes += 2 * agree_nbytes(exchange.axes)  # who takes part, and whether all is fine
        error_norm = norm([m - s for m, s in zip(messages, sent, strict=True)])
        state = RoundsState(
            key=state.key,
            log=step(state.log, jnp.array(finite).all(), error_norm, nbytes, dense),
            control=structure.unflatten(control),
            own=PerSender(
                (
                    structure.unflatten(own),
                    structure.unflatten(momentum) if remembers else None,
                    ends,
                )
            ),
            uplinks=PerSender(Total(state.uplinks.value.value + part)),
        )
        return structure.unflatten(moved), state

    return Rounds(init, round, name)


def _steps(batches: Any) -> int:
    lengths = {jnp.shape(x)[:1] for x in jax.tree.leaves(batches)}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise UnsupportedInput(
            f"expected batches with one leading axis of local steps, at least 1, got {lengths}; "
            "stack the batches of a round"
        )
    return lengths.pop()[0]
