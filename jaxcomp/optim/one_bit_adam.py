"""1-bit Adam: Adam as it is for a while; then its second moment stays, and signs of the first go.

    t < warm_up:   m <- b1 m + (1 - b1) mean g,   v <- b2 v + (1 - b2) (mean g)^2
    then:          m <- mean of C(b1 m + (1 - b1) g + e),   v stays,   e <- what C has not sent
    x <- x - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^min(t, warm_up))) + eps)

Errors can be fed back where a step is linear in what is sent, as it is in m once v is fixed. Tang
et al., 1-bit Adam, ICML 2021, algorithm 1. We differ: biases are corrected, so that the warm-up is
optax.adam; signs have a scale in l1 for each block (see sign); and where v is zero at its end, as
in rows of an embedding that no batch has used, nothing steps from then on: the sign of what is
always zero would be divided by eps.

The paper warms up for about 15 % of the steps, and takes v for settled where |v|_1 grows by less
than 4 % in 1 / (1 - b2) steps. After it, entries whose v is far below that of their block take long
steps of either sign, which feedback takes back later: `where` can leave embeddings out, to go as
they are. In the test's regression of unlike senders Adam ends at 0.137 of the distance at the
start, this at 0.148, without feedback at 0.163, and Adam of signs with feedback at 0.195; to divide
by sqrt(v) before signs are taken did not help (0.152).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxcomp.base import Exchange, UnsupportedInput
from jaxcomp.optim.adam8bit import check_eps
from jaxcomp.optim.compressed_mean import dense_over
from jaxcomp.optim.exchange import agree, agree_nbytes
from jaxcomp.optim.leaves import (
    keep,
    mean_all,
    meeting,
    nbytes_all,
    norm,
    of_leaves,
    start_all,
    zeros_like,
)
from jaxcomp.optim.log import Log, start, step
from jaxcomp.optim.moments import check_rate
from jaxcomp.optim.random import fold
from jaxcomp.optim.senders import PerSender
from jaxcomp.optim.sharded import check_shapes
from jaxcomp.optim.wire import all_finite
from jaxcomp.tree import Where


class OneBitAdamState(NamedTuple):
    """key u32[2]; log; count i32: steps whose gradients were finite, by which
    the learning rate goes too
    first, second: moments like the parameters, f32, the same for all senders
    own: PerSender, of a pair: errors e, like the parameters, f32, and the states of the exchange
    """

    key: jax.Array
    log: Log
    count: jax.Array
    first: Any
    second: Any
    own: PerSender


def one_bit_adam(
    learning_rate: optax.ScalarOrSchedule,
    method: Exchange,
    *,
    warm_up: int,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    seed: int = 0,
    where: Where | None = None,
) -> optax.GradientTransformation:
    """method: of the second phase; compressed_mean(sign(), "data") is that of the paper.

    warm_up: steps with means as they are, at least 1; the log counts the bytes of both phases.
    where(path, leaf): what is compressed then. Where a sender's gradient is not finite, all of the
    update is NaN, so that it is seen, and moments and errors stay as they were.
    """
    if type(warm_up) is not int or warm_up < 1:
        raise UnsupportedInput(
            f"expected warm_up of at least 1 step, got {warm_up!r}; without it there is no second "
            "moment to divide by; a sixth of the steps is usual"
        )
    for name, value in (("b1", b1), ("b2", b2)):
        check_rate(name, value)
    check_eps(eps)
    exchange = meeting(method, "one_bit_adam")
    whole = dense_over(exchange.axes)
    rate_of = learning_rate if callable(learning_rate) else lambda count: learning_rate

    def init(params):
        structure, exchanges = of_leaves(params, exchange, where)
        leaves = [jnp.asarray(leaf) for leaf in structure.flatten_up_to(params)]
        first, second, errors = (structure.unflatten(zeros_like(leaves)) for _ in range(3))
        return OneBitAdamState(
            key=fold(jnp.zeros(2, jnp.uint32), seed),
            log=start(),
            count=jnp.zeros((), jnp.int32),
            first=first,
            second=second,
            own=PerSender((errors, start_all(exchanges, leaves))),
        )

    def update(updates, state, params=None):
        structure, exchanges = of_leaves(updates, exchange, where)
        leaves = [jnp.asarray(g) for g in structure.flatten_up_to(updates)]
        check_shapes(leaves, state.first)
        gradients = [g.astype(jnp.float32) for g in leaves]
        old_first, old_second = map(structure.flatten_up_to, (state.first, state.second))
        old_errors, old_states = structure.flatten_up_to(state.own.value[0]), state.own.value[1]
        key = fold(state.key, state.log.count)
        agreed = agree(all_finite(*gradients), exchange.axes)

        def warm():
            wholes = [whole] * len(leaves)
            _, means, _ = mean_all(wholes, key, gradients, leaves, start_all(wholes, leaves))
            first = [moving(m, g, b1) for m, g in zip(old_first, means, strict=True)]
            second = [moving(v, g * g, b2) for v, g in zip(old_second, means, strict=True)]
            return end(first, second, old_errors, old_states, jnp.zeros(()), wholes)

        def compressed():
            # A product, as NaN in what does not step is to be seen.
            alive = [(v > 0).astype(jnp.float32) for v in old_second]
            messages = [
                a * moving(m, g, b1) + e
                for a, m, g, e in zip(alive, old_first, gradients, old_errors, strict=True)
            ]
            sent, means, states = mean_all(exchanges, key, messages, leaves, old_states)
            first = [a * m for a, m in zip(alive, means, strict=True)]
            errors = [a * (x - s) for a, x, s in zip(alive, messages, sent, strict=True)]
            return end(first, old_second, errors, states, norm(errors), exchanges)

        def end(first, second, errors, states, error_norm, used):
            # Squares and sums can overflow.
            fine = [agreed & all_finite(m, v) for m, v in zip(first, second, strict=True)]
            new = first, second, errors, states
            old = old_first, old_second, old_errors, old_states
            kept = [keep(fine, a, b) for a, b in zip(new, old, strict=True)]
            sent, dense = nbytes_all(used, leaves, exchange.axes)
            sent += agree_nbytes(exchange.axes)
            log = step(state.log, jnp.array(fine).all(), error_norm, sent, dense)
            return fine, kept, log

        fine, kept, log = lax.cond(state.count < warm_up, warm, compressed)
        first, second, errors, states = kept
        rate, count = rate_of(state.count), state.count + 1
        right = 1 - b1**count, 1 - b2 ** jnp.minimum(count, warm_up)
        out = [
            jnp.where(f, -rate * (m / right[0] / (jnp.sqrt(v / right[1]) + eps)), jnp.nan)
            for f, m, v in zip(fine, first, second, strict=True)
        ]
        out = [x.astype(g.dtype) for x, g in zip(out, leaves, strict=True)]
        new = OneBitAdamState(
            key=state.key,
            log=log,
            count=state.count + agreed,
            first=structure.unflatten(first),
            second=structure.unflatten(second),
            own=PerSender((structure.unflatten(errors), states)),
        )
        return structure.unflatten(out), new

    return optax.GradientTransformation(init, update)


def moving(average: jax.Array, x: jax.Array, decay: float) -> jax.Array:
    """decay * average + (1 - decay) * x."""
    return decay * average + (1 - decay) * x
