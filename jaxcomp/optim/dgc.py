"""Deep Gradient Compression: one entry in a thousand, and momentum that knows of it.

    g <- g min(1, clip / (sqrt(N) |g|))        clipping, of each sender, before anything is added
    u <- m u + g,        v <- v + u            momentum correction; with Nesterov's momentum
    u <- m (u + g),      v <- v + u + g
    out = mean of the largest entries of v     where an entry is sent, v <- 0 and u <- 0
    density 0.25, 0.0625, 0.0156, 0.004        and then that asked for: warm-up

v adds up velocities, not gradients: an entry that waits loses none of what momentum would have made
of it (momentum correction). Momentum of before a sum was sent would push on in a direction that is
out of date: it ends with sending (factor masking). Lin et al., Deep Gradient Compression, ICLR
2018, section 3 and appendix B. It replaces the momentum of what follows: follow it by plain sgd. We
differ: the rounding of values to the dtype of gradients stays in v; places are packed; the k
largest are found exactly, or on a TPU with recall, where the paper samples.

What each part is good for, as test loss (a network 196-32-32-10 on MNIST, 8 senders of 16 images,
600 steps of 0.3, density 0.01, 3 seeds): dense 0.31 and dgc 0.35, each +-0.05; without correction
0.48, without masking 0.45, without warm-up 0.38, which is not sure; without any 0.52; Nesterov's
0.30. At a third of the step masking gains nothing (at density 0.002, 0.34 with and 0.32 without),
and where senders are unlike it leaves a run off the minimum however small the steps are (0.88 off
at 0.003 and 0.86 at 0.0003 on the quadratics of the tests; 0.48 and 0.05 without). Clipping is for
gradients that explode: here, at a norm of 2, it costs (0.34 with, 0.29 without).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxcomp.base import Compressor, UnsupportedInput
from jaxcomp.optim.exchange import size_of
from jaxcomp.optim.feedback import feedback
from jaxcomp.optim.gathered import gathered
from jaxcomp.optim.places import count_of
from jaxcomp.optim.top_k import top_k
from jaxcomp.tree import Where

WARM_UP = (0.25, 0.0625, 0.015625, 0.004)  # section 3.3: a quarter of the density each time


def matrices(path: str, leaf: Any) -> bool:
    """Whether a leaf has two axes or more. Biases and gains are few, and are sent whole."""
    return leaf.ndim >= 2


def dgc(
    axis_name: str,
    density: float = 0.001,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    clip: float | None = None,
    masking: bool = True,
    warm_up: int = 0,
    compressor: Callable[[float], Compressor] = top_k,
    where: Where | None = matrices,
    seed: int = 0,
) -> optax.GradientTransformation:
    """Means over axis_name, by an all-gather of entries; density of each leaf, at least one.

    clip: largest norm of the mean of all leaves, None for none. warm_up: steps at each density of
    WARM_UP that is above the last one. compressor(density): top_k, or another that sends entries.
    Leaves that where(path, leaf) leaves out go whole, with plain momentum. State: FeedbackState,
    whose memory of a leaf is the pair (u, v).
    """
    count_of(1, density)
    if not callable(compressor):
        raise UnsupportedInput(
            "expected compressor, a function of a density, got "
            f"{getattr(compressor, 'name', compressor)!r}; top_k, not top_k()"
        )
    if not 0 <= momentum < 1:
        raise UnsupportedInput(f"expected momentum of 0 and below 1, got {momentum}; 0.9 is usual")
    if clip is not None and not clip > 0:
        raise UnsupportedInput(f"expected a positive norm for clip or None, got {clip}")
    if type(warm_up) is not int or warm_up < 0:
        raise UnsupportedInput(f"expected warm_up, a number of steps, got {warm_up!r}")

    def before(gradient, memory):
        velocity, total = memory
        if nesterov:
            velocity = momentum * (velocity + gradient)
            return velocity, total + velocity + gradient
        velocity = momentum * velocity + gradient
        return velocity, total + velocity

    def message(gradient, memory, shared):
        return memory[1]

    def whole(message, sent, mean, memory, shared):
        return mean, (memory[0], message - sent), None

    def result(message, sent, mean, memory, shared):
        velocity = jnp.where(sent == 0, memory[0], 0) if masking else memory[0]
        return mean, (velocity, message - sent), None

    stages = [
        feedback(
            gathered(compressor(share), axis_name),
            message,
            result,
            remembers=2,
            before=before,
            unchosen=whole,
            where=where,
            seed=seed,
        )
        for share in (*[share for share in WARM_UP if share > density and warm_up], density)
    ]

    def update(updates, state, params=None):
        if clip is not None:
            updates = _clipped(updates, clip / size_of(axis_name) ** 0.5)
        if len(stages) == 1:
            return stages[0].update(updates, state)
        # All senders are at the same step, so all take the same branch, with its collectives.
        stage = jnp.minimum(state.log.count // warm_up, len(stages) - 1)
        return lax.switch(stage, [each.update for each in stages], updates, state)

    return optax.GradientTransformation(stages[-1].init, update)


def _clipped(updates: Any, most: float) -> Any:
    """The same direction, no longer than most. A length that is no float32 makes all NaN."""
    leaves = [x.astype(jnp.float32) for x in jax.tree.leaves(updates)]
    norm = jnp.sqrt(sum((jnp.square(x).sum() for x in leaves), jnp.zeros(())))
    factor = jnp.where(jnp.isfinite(norm), jnp.minimum(1, most / norm), jnp.nan)
    return jax.tree.map(lambda x: (x * factor).astype(x.dtype), updates)
