"""PV-Tuning: compressed weights trained on the outputs of the whole function, codes too.

    minimise    loss(fn(reference, *batch), fn(dense(codes, floats), *batch)), the mean over batches

Each step takes the gradient of the loss by the floats (codebooks, scales, zeros, and what is not
compressed) and by the dense weights Q, and then

    P   moves the floats by Adam, the codes held still
    V   moves a buffer V that began as Q, by Adam of the gradient by Q; of the codes whose nearest
        ones to V are others, the few whose |V - Q| is largest are changed to these

Straight-through training changes all of them, at times so many at once that the gradient, which is
that of where the weights were, says little of where they go. Measured on a language model of 260 K
weights at 2.29 bits, KL 2.45 at the start, after 80 steps: floats alone 1.33; codes too, V at 0.03,
0.95 with a share of 0.01 and 0.885 with 0.1 or all, so that the limit gains nothing; with V at 0.1
(floats at 1e-3) 1.65 with 0.01 and 1.87 with all: it guards against a rate that is too high.

Malinovskii et al., PV-Tuning: beyond straight-through estimation for extreme LLM compression, 2024,
algorithm 1, and for V section 3.2 and algorithm 2. We differ: both steps use one gradient; codes of
several books are searched one book after another, twice, and not by a beam; the loss is the KL to
the float model alone.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.codebook import Codebook
from jaxcomp.formats.leaf import Leaf
from jaxcomp.formats.qtensor import QTensor
from jaxcomp.lift.lift import lift
from jaxcomp.measures.kl_nats import kl_nats
from jaxcomp.tree import is_compressed, join, split
from jaxcomp.weights.distil import arrays_of
from jaxcomp.weights.progress import progress
from jaxcomp.weights.recode import recoded

RATE = 3e-3  # of Adam on floats: better than 1e-3, with codes that move or without
CODE_RATE = 3e-2  # of the norm of a weight that V moves at a step: of 0.01 to 0.1 the best
SHARE = 0.1  # of the codes that change at a step, at most: 0.01 in the paper, which is too few here
DECAY = 0.95  # of the mean squared gradient, of V; there is no momentum: both the paper's
JUDGED, CHECKS = 4, 5  # batches that decide which of so many moments is returned


def pv_tuning(
    fn: Callable[..., Any],
    small: Any,
    batches: Iterable[Any],
    *,
    reference: Any,
    steps: int,
    rate: float | int = RATE,
    code_rate: float | int = CODE_RATE,
    share: float | int = SHARE,
    loss: Callable[[Any, Any], jax.Array] = kl_nats,
    seed: int = 0,
) -> Any:
    """small, trained; its leaves keep their formats and bytes. What was passed stays as it is.

    The codes of Codebook and QTensor leaves are trained, stacked ones too; other leaves train their
    floats alone. What comes back is the best, on at most 4 of the batches, of the start and 5
    moments on the way: never worse than the start on those.

    fn, batches, reference, loss   as in distil
    rate       of Adam on the floats; it falls to zero as a cosine does, as does code_rate
    code_rate  how far V moves at a step, of the norm of the weight
    share      of the codes of a leaf, at most, that change at a step; 0 trains floats alone
    """
    batches = [batch if isinstance(batch, tuple) else (batch,) for batch in batches]
    if not batches or steps < 0 or not 0 <= share <= 1:
        raise UnsupportedInput(
            f"expected batches, steps >= 0 and a share of 0 to 1, got {len(batches)} batches, "
            f"{steps} steps and {share}; pass a list of what fn takes behind params"
        )
    if not any(_has_codes(leaf) for leaf in jax.tree.leaves(small, is_leaf=is_compressed)):
        raise UnsupportedInput(
            "expected Codebook or QTensor leaves in small, got none; compress params first, by "
            "jc.weights.aqlm() say"
        )
    moving = optax.adam(optax.cosine_decay_schedule(rate, max(1, steps)))
    pushing = optax.chain(
        optax.scale_by_adam(b1=0.0, b2=DECAY),
        optax.scale_by_trust_ratio(),
        optax.scale_by_learning_rate(optax.cosine_decay_schedule(code_rate, max(1, steps))),
    )
    lifted = lift(fn)
    (small, reference), (mine, theirs) = arrays_of((small, reference))
    floats, _ = split(small)
    dtypes = jax.tree.map(jnp.result_type, floats)

    def student(small, *batch):
        return lifted(join(small, mine), *batch)

    def teacher(reference, *batch):
        return fn(join(reference, theirs), *batch)

    def whole(state):
        return join(jax.tree.map(jnp.astype, state.floats, dtypes), state.codes)

    @jax.jit
    def start(small):
        worst = jnp.full((), -jnp.inf, jnp.float32)
        floats, codes = split(small)
        floats = jax.tree.map(lambda x: x.astype(jnp.float32), floats)
        buffers = [leaf.dense().astype(jnp.float32) for leaf in _coded(small)]
        return State(floats, codes, buffers, moving.init(floats), pushing.init(buffers), worst)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, reference, batch):
        aim = teacher(reference, *batch)

        def objective(floats, moves):
            return loss(aim, student(_moved(whole(state._replace(floats=floats)), moves), *batch))

        still = [jnp.zeros_like(buffer) for buffer in state.buffers]
        value, (by_floats, by_weights) = jax.value_and_grad(objective, (0, 1))(state.floats, still)
        updates, moments = moving.update(by_floats, state.moments)
        floats = optax.apply_updates(state.floats, updates)
        updates, pushes = pushing.update(by_weights, state.pushes, state.buffers)
        buffers = optax.apply_updates(state.buffers, updates)
        small = whole(state._replace(floats=floats))
        if share:
            new = iter([recoded(*pair, share) for pair in zip(_coded(small), buffers, strict=True)])
            small = _replaced(small, lambda leaf: next(new))
        worst = jnp.maximum(state.worst, value)  # which keeps a NaN
        return State(floats, split(small)[1], buffers, moments, pushes, worst), value

    @jax.jit
    def judge(small, reference, batch):
        return loss(teacher(reference, *batch), student(small, *batch))

    judged = batches[:: -(-len(batches) // JUDGED)]

    def distance(small):
        return float(np.mean([float(judge(small, reference, batch)) for batch in judged]))

    best, least = small, distance(small)
    state = jax.tree.map(lambda x: jnp.array(x, copy=True), start(small))
    order = np.random.default_rng(seed)
    every = -(-max(1, steps) // CHECKS)
    with progress(steps) as advance:
        for i in range(steps):
            if i % len(batches) == 0:
                turn = order.permutation(len(batches))
            state, value = step(state, reference, batches[turn[i % len(batches)]])
            advance(_Step(i + 1, value))
            if (i + 1) % every == 0 or i + 1 == steps:
                now = whole(state)
                found = distance(now)
                if found < least:
                    best, least = jax.tree.map(lambda x: jnp.array(x, copy=True), now), found
    if steps and not np.isfinite(state.worst):
        raise UnsupportedInput(
            f"expected a finite loss at every step, got {float(state.worst)} at one of {steps}; "
            "lower the rates, or look for values in batches that are not finite"
        )
    return join(best, mine)


class State(NamedTuple):
    """floats and codes: the two halves of the tree; buffers: V of each leaf with codes, in f32."""

    floats: Any
    codes: Any
    buffers: list[jax.Array]
    moments: Any
    pushes: Any
    worst: Any


class _Step(NamedTuple):
    """What the bar says; the loss is waited for only where it is shown."""

    number: int
    loss: jax.Array

    def __str__(self) -> str:
        return f"step {self.number}, loss {float(self.loss):.4g}"


def _has_codes(leaf: Any) -> bool:
    return isinstance(leaf, Codebook | QTensor)


def _coded(tree: Any) -> list[Leaf]:
    return [leaf for leaf in jax.tree.leaves(tree, is_leaf=is_compressed) if _has_codes(leaf)]


def _replaced(tree: Any, function: Callable[[Leaf], Any]) -> Any:
    return jax.tree.map(
        lambda leaf: function(leaf) if _has_codes(leaf) else leaf, tree, is_leaf=is_compressed
    )


def _moved(tree: Any, moves: list[jax.Array]) -> Any:
    """The tree with dense weights, each moved: the gradient of a move is that by the weight."""
    rest = iter(moves)
    return _replaced(tree, lambda leaf: leaf.dense() + next(rest).astype(leaf.dtype))
