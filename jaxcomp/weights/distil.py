"""distil: parameters moved by gradient until a function on them gives what it gave in floats.

    minimise over theta    loss(fn(reference, *batch), fn(build(theta), *batch)) + penalty(theta),
                           the mean over batches

What methods share that are judged by the outputs of the whole function, and not weight by weight:
Hinton, Vinyals, Dean, Distilling the knowledge in a neural network, 2015, section 2, with the
float model as the teacher of its own compressed self. No labels are needed.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcomp.base import UnsupportedInput
from jaxcomp.lift.lift import lift
from jaxcomp.measures.kl_nats import kl_nats
from jaxcomp.tree import join, split
from jaxcomp.weights.options import check_whole
from jaxcomp.weights.progress import progress

RATE = 1e-3  # of Adam, falling to zero as a cosine does: what trains small models at few bits


def distil(
    fn: Callable[..., Any],
    parameters: Any,
    build: Callable[..., Any],
    batches: Iterable[Any],
    *,
    reference: Any,
    steps: int,
    optimizer: optax.GradientTransformation | None = None,
    loss: Callable[[Any, Any], jax.Array] = kl_nats,
    penalty: Callable[[Any], jax.Array] | None = None,
    project: Callable[[Any], Any] | None = None,
    rest: Any = None,
    seed: int = 0,
) -> Any:
    """parameters, trained; those that were passed stay as they are.

    Arrays of floats move in float32, and are rounded to their own dtype wherever they are used:
    steps of 1e-3 are nothing to a bfloat16. All else (integers, keys, Python numbers, functions)
    stays: the optimizer sees None in its place, and build, penalty and project what it is.

    fn         of params and a batch, in floats; it runs lifted, so build may return packed leaves
    build      parameters -> params of fn
    batches    held in memory; a tuple is several arguments. Each is met once before any is met
               again, in an order that seed decides. One program is compiled per shape of a batch.
    reference  params of the float model, whose outputs are the aim
    optimizer  of optax; by default Adam at 1e-3 with cosine decay over `steps`
    loss       (what the float model gives, what fn gives now) -> a scalar; by default both are
               logits, and the KL of their distributions
    penalty    parameters -> a scalar that is added to the loss
    project    parameters -> parameters, after every update
    rest       a tree of arrays that build needs beside: it is called as build(parameters, rest).
               What build closes over becomes constants of the program, which must be few

    A bar shows step and loss on a terminal. Raises UnsupportedInput where there is no batch, and
    where the loss was not finite at any step.
    """
    batches = [batch if isinstance(batch, tuple) else (batch,) for batch in batches]
    if not batches:
        raise UnsupportedInput(
            "expected batches, got 0 batches; pass a list of what fn takes behind params"
        )
    check_whole(0, steps=steps, advice="some hundreds serve")
    optimizer = optimizer or optax.adam(optax.cosine_decay_schedule(RATE, max(1, steps)))
    student = lift(fn)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(moving, state, worst, arrays, batch):
        reference, rest, still = join(arrays, others)
        aim = fn(reference, *batch)

        def objective(moving):
            parameters = join(jax.tree.map(jnp.astype, moving, dtypes), still)
            params = build(parameters) if rest is None else build(parameters, rest)
            found = loss(aim, student(params, *batch))
            return found if penalty is None else found + penalty(parameters)

        value, gradient = jax.value_and_grad(objective)(moving)
        updates, state = optimizer.update(gradient, state, moving)
        moving = optax.apply_updates(moving, updates)
        if project is not None:
            moving, _ = split(project(join(moving, still)))
        return moving, state, jnp.maximum(worst, value), value  # which keeps a NaN

    moving, still = split(parameters)
    if not jax.tree.leaves(moving):
        raise UnsupportedInput(
            "expected arrays of floats among parameters, got none; there is nothing to train"
        )
    arrays, others = arrays_of((reference, rest, still))
    dtypes = jax.tree.map(jnp.result_type, moving)
    moving = jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), moving)
    state = optimizer.init(moving)
    worst = value = jnp.float32(-jnp.inf)
    order = np.random.default_rng(seed)
    with progress(steps) as advance:
        for i in range(steps):
            if i % len(batches) == 0:
                turn = order.permutation(len(batches))
            batch = batches[turn[i % len(batches)]]
            moving, state, worst, value = step(moving, state, worst, arrays, batch)
            advance(_Step(i + 1, value))
    if steps and not np.isfinite(worst):
        raise UnsupportedInput(
            f"expected a finite loss at every step, got {float(worst)} at one of {steps}; lower "
            "the learning rate, or look for values in batches that are not finite"
        )
    return join(jax.tree.map(jnp.astype, moving, dtypes), still)


def arrays_of(tree: Any) -> tuple[Any, Any]:
    """(arrays, the rest), for `join`: functions, as Equinox modules hold them, and other things of
    Python are no arguments of a program."""
    return split(tree, lambda path, x: hasattr(x, "dtype"))


class _Step(NamedTuple):
    """What the bar says; the loss is waited for only where it is shown."""

    number: int
    loss: jax.Array

    def __str__(self) -> str:
        return f"step {self.number}, loss {float(self.loss):.4g}"
