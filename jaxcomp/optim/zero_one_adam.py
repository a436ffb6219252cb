"""0/1 Adam: 1-bit Adam that hardly warms up, and in the end does not meet at every step.

Until `freeze`, u steps apart where u doubles every `refreshes` times, as Adam; in between

    m <- b1 m + (1 - b1) mean of C(g + e),     v stays,     x <- x - lr m / (sqrt(v) + eps)

From then on each sender steps alone, and v stays for good:

    m_i <- b1 m_i + (1 - b1) g_i,     x_i <- x_i - lr m_i / (sqrt(v) + eps)

When they meet, after 1, 2, 4 ... `local` steps, they send how far they have come, in units of m:

    u = mean of C((x - x_i) (sqrt(v) + eps) + e),     x_i, x <- x - u / (sqrt(v) + eps),
    m_i <- u / (sum of lr since the last mean)

Lu et al., Maximizing Communication Efficiency for Large-scale Training via 0/1 Adam, ICLR 2023,
algorithm 1. We differ: gradients go in signs between refreshes, in place of first local steps, as
in the DeepSpeed of its authors; intervals are doubled by counts, not by the learning rate; biases
are corrected; and where v is zero nothing steps (see one_bit_adam). Errors are forgotten at
`freeze`, where what they are errors of changes.

Senders have parameters of their own between means: gradients are taken at own_params(params,
state), and params are those of the last mean. In the test's regression 16 steps between means end
nearer than 1, 0.155 to 0.174 (Adam 0.137), in 7.5 and 5.2 times fewer bytes than gradients have.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxcomp.base import Exchange, UnsupportedInput
from jaxcomp.optim.adam8bit import check_eps
from jaxcomp.optim.compressed_mean import dense_over
from jaxcomp.optim.exchange import agree, agree_nbytes, dense_nbytes
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
from jaxcomp.optim.moments import check_rate
from jaxcomp.optim.one_bit_adam import moving
from jaxcomp.optim.own_params import Away
from jaxcomp.optim.random import fold
from jaxcomp.optim.senders import PerSender, Total
from jaxcomp.optim.sharded import check_shapes
from jaxcomp.optim.wire import all_finite
from jaxcomp.tree import Where

LARGEST_DOUBLING = 30  # of an interval: more steps than an i32 counts


class ZeroOneAdamState(NamedTuple):
    """key u32[2]; log; count i32: steps
    refreshed, due i32: times that v was, and the count at which it is next
    apart i32, rates f32: steps since the last mean, and the sum of their learning rates
    first, second: moments like the parameters, f32, the same for all senders
    away: what the sender's parameters have beyond those of all
    own: PerSender: m_i and e, like the parameters, f32; the states of the exchange; and a Total,
    i32, local steps since the last mean whose gradients were not finite
    """

    key: jax.Array
    log: Log
    count: jax.Array
    refreshed: jax.Array
    due: jax.Array
    apart: jax.Array
    rates: jax.Array
    first: Any
    second: Any
    away: Away
    own: PerSender


def zero_one_adam(
    learning_rate: optax.ScalarOrSchedule,
    method: Exchange,
    *,
    freeze: int,
    refreshes: int = 16,
    local: int = 16,
    local_doubling: int = 1000,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    seed: int = 0,
    where: Where | None = None,
) -> optax.GradientTransformation:
    """method: of gradients and of steps; compressed_mean(sign(), "data") is that of the paper.

    freeze: steps until v stays. refreshes: of v before the steps between them double. local: most
    steps between means, and local_doubling, steps before they double; 1 is a mean at every step.
    where(path, leaf): what is compressed. Until freeze, a gradient that is not finite makes the
    update NaN, and leaves the state; after it, a sender does not move in a step whose gradients are
    not finite, and the log counts these steps when senders meet.
    """
    given = {"freeze": freeze, "refreshes": refreshes, "local": local}
    for name, value in (given | {"local_doubling": local_doubling}).items():
        if type(value) is not int or value < 1:
            raise UnsupportedInput(f"expected {name} of at least 1, got {value!r}")
    for name, value in (("b1", b1), ("b2", b2)):
        check_rate(name, value)
    check_eps(eps)
    exchange = meeting(method, "zero_one_adam")
    whole = dense_over(exchange.axes)
    rate_of = learning_rate if callable(learning_rate) else lambda count: learning_rate

    def init(params):
        structure, exchanges = of_leaves(params, exchange, where)
        leaves = [jnp.asarray(leaf) for leaf in structure.flatten_up_to(params)]
        first, second, away, own, errors = (
            structure.unflatten(zeros_like(leaves)) for _ in range(5)
        )
        numbers = [jnp.zeros((), jnp.int32) for _ in range(5)]
        states = start_all(exchanges, leaves)
        return ZeroOneAdamState(
            fold(jnp.zeros(2, jnp.uint32), seed),
            start(),
            *numbers[:4],
            jnp.zeros(()),
            first,
            second,
            Away(PerSender(away)),
            PerSender((own, errors, states, Total(numbers[4]))),
        )

    def update(updates, state, params=None):
        structure, exchanges = of_leaves(updates, exchange, where)
        leaves = [jnp.asarray(g) for g in structure.flatten_up_to(updates)]
        check_shapes(leaves, state.first)
        gradients = [g.astype(jnp.float32) for g in leaves]
        wholes = [whole] * len(leaves)
        first, second, away, own, errors = map(
            structure.flatten_up_to,
            (state.first, state.second, state.away.value.value, *state.own.value[:2]),
        )
        states, missed = state.own.value[2], state.own.value[3].value
        flat = state._replace(
            first=first,
            second=second,
            away=Away(PerSender(away)),
            own=PerSender((own, errors, states, missed)),
        )
        key = fold(state.key, state.log.count)
        rate = rate_of(state.count) / (1 - b1 ** (state.count + 1))
        # A product, as NaN in what does not step is to be seen.
        alive = [(v > 0).astype(jnp.float32) for v in second]

        def divisors(second, times):
            return [jnp.sqrt(v / (1 - b2**times)) + eps for v in second]

        def refresh():
            means = mean_all(wholes, key, gradients, leaves, start_all(wholes, leaves))[1]
            squares = [moving(v, g * g, b2) for v, g in zip(second, means, strict=True)]
            times = state.refreshed + 1
            doublings = jnp.minimum(state.refreshed // refreshes, LARGEST_DOUBLING)
            due = state.count + jnp.left_shift(1, doublings)
            new = flat._replace(second=squares, refreshed=times, due=due)
            return together(new, means, divisors(squares, times), jnp.zeros(()), wholes)

        def signs():
            messages = [a * g + e for a, g, e in zip(alive, gradients, errors, strict=True)]
            sent, means, kept = mean_all(exchanges, key, messages, leaves, states)
            lost = [a * (x - s) for a, x, s in zip(alive, messages, sent, strict=True)]
            means = [a * x for a, x in zip(alive, means, strict=True)]
            new = flat._replace(own=PerSender((own, lost, kept, missed)))
            return together(new, means, divisors(second, state.refreshed), norm(lost), exchanges)

        def together(new, means, by, error_norm, used):
            agreed = agree(all_finite(*gradients), exchange.axes)
            moments = [moving(m, g, b1) for m, g in zip(first, means, strict=True)]
            # Squares and sums can overflow.
            fine = [agreed & all_finite(m, v) for m, v in zip(moments, new.second, strict=True)]
            _, lost, kept, _ = new.own.value
            sent, dense = nbytes_all(used, leaves, exchange.axes)
            sent += agree_nbytes(exchange.axes)
            new = new._replace(
                log=step(state.log, jnp.array(fine).all(), error_norm, sent, dense),
                count=state.count + agreed,
                refreshed=jnp.where(agreed, new.refreshed, state.refreshed),
                due=jnp.where(agreed, new.due, state.due),
                first=keep(fine, moments, first),
                second=keep(fine, new.second, second),
                own=PerSender((own, keep(fine, lost, errors), keep(fine, kept, states), missed)),
            )
            out = [-rate * m / d for m, d in zip(moments, by, strict=True)]
            return [jnp.where(f, x, jnp.nan) for f, x in zip(fine, out, strict=True)], new

        def alone():
            new, _ = move()
            _, dense = nbytes_all(exchanges, leaves, exchange.axes)
            log = step(state.log, jnp.array(True), state.log.error_norm.value, 0, dense)
            return zeros_like(leaves), new._replace(log=log)

        def move():
            begins = state.count == freeze
            fresh = (first, zeros_like(leaves), start_all(exchanges, leaves))
            old, kept, inner = pick(begins, fresh, (own, errors, states))
            by = divisors(second, state.refreshed)
            moments = [moving(m, g, b1) for m, g in zip(old, gradients, strict=True)]
            gone = [
                x - a * rate * m / d for x, a, m, d in zip(away, alive, moments, by, strict=True)
            ]
            fine = all_finite(*gradients)
            moments, gone = pick(fine, (moments, gone), (old, away))
            new = flat._replace(
                count=state.count + 1,
                apart=state.apart + 1,
                rates=state.rates + rate,
                away=Away(PerSender(gone)),
                own=PerSender((moments, kept, inner, missed + 1 - fine.astype(jnp.int32))),
            )
            return new, by

        def meet():
            new, by = move()
            _, kept, inner, missing = new.own.value
            gone = new.away.value.value
            messages = [e - x * d for e, x, d in zip(kept, gone, by, strict=True)]
            sent, means, ends = mean_all(exchanges, key, messages, leaves, inner)
            means = [a * x for a, x in zip(alive, means, strict=True)]
            lost = [a * (x - s) for a, x, s in zip(alive, messages, sent, strict=True)]
            fine = [all_finite(x) for x in means]
            moments = [
                jnp.where(f & (new.rates > 0), x / new.rates, m)
                for f, x, m in zip(fine, means, first, strict=True)
            ]
            sent, dense = nbytes_all(exchanges, leaves, exchange.axes)
            number = dense_nbytes(missing, exchange.axes)
            log = step(state.log, jnp.array(fine).all(), norm(lost), sent + number, dense)
            new = new._replace(
                log=log._replace(skipped=log.skipped + lax.psum(missing, exchange.axes)),
                apart=jnp.zeros_like(new.apart),
                rates=jnp.zeros_like(new.rates),
                first=moments,
                away=Away(PerSender(zeros_like(leaves))),
                own=PerSender(
                    (
                        moments,
                        keep(fine, lost, kept),
                        keep(fine, ends, inner),
                        jnp.zeros_like(missing),
                    )
                ),
            )
            return [-x / d for x, d in zip(means, by, strict=True)], new

        doublings = jnp.minimum((state.count - freeze) // local_doubling, LARGEST_DOUBLING)
        interval = jnp.minimum(local, jnp.left_shift(1, jnp.maximum(doublings, 0)))
        case = jnp.where(
            state.count < freeze,
            jnp.where(state.count >= state.due, 0, 1),
            jnp.where(state.apart + 1 < interval, 2, 3),
        )
        out, new = lax.switch(case, (refresh, signs, alone, meet))
        own, errors, states, missed = new.own.value
        new = new._replace(
            first=structure.unflatten(new.first),
            second=structure.unflatten(new.second),
            away=Away(PerSender(structure.unflatten(new.away.value.value))),
            own=PerSender(
                (structure.unflatten(own), structure.unflatten(errors), states, Total(missed))
            ),
        )
        out = [x.astype(g.dtype) for x, g in zip(out, leaves, strict=True)]
        return structure.unflatten(out), new

    return optax.GradientTransformation(init, update)
