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

    They move in float32, and are rounded to their own dtype wherever they are used: steps of 1e-3
    are nothing to a bfloat16.

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
    if not batches or steps < 0:
        raise UnsupportedInput(
            f"expected batches and steps >= 0, got {len(batches)} batches and {steps} steps; pass "
            "a list of what fn takes behind params"
        )
    optimizer = optimizer or optax.adam(optax.cosine_decay_schedule(RATE, max(1, steps)))
    student = lift(fn)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(parameters, state, worst, arrays, batch):
        reference, rest = join(arrays, others)
        aim = fn(reference, *batch)

        def objective(parameters):
            parameters = jax.tree.map(jnp.astype, parameters, dtypes)
            params = build(parameters) if rest is None else build(parameters, rest)
            found = loss(aim, student(params, *batch))
            return found if penalty is None else found + penalty(parameters)

        value, gradient = jax.value_and_grad(objective)(parameters)
        updates, state = optimizer.update(gradient, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        parameters = parameters if project is None else project(parameters)
        return parameters, state, jnp.maximum(worst, value), value  # which keeps a NaN

    # Functions, as Equinox modules hold them, are no arguments of a program.
    arrays, others = split((reference, rest), lambda path, x: hasattr(x, "dtype"))
    dtypes = jax.tree.map(jnp.result_type, parameters)
    parameters = jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), parameters)
    state = optimizer.init(parameters)
    worst = value = jnp.float32(-jnp.inf)
    order = np.random.default_rng(seed)
    with progress(steps) as advance:
        for i in range(steps):
            if i % len(batches) == 0:
                turn = order.permutation(len(batches))
            batch = batches[turn[i % len(batches)]]
            parameters, state, worst, value = step(parameters, state, worst, arrays, batch)
            advance(_Step(i + 1, value))
    if steps and not np.isfinite(worst):
        raise UnsupportedInput(
            f"expected a finite loss at every step, got {float(worst)} at one of {steps}; lower "
            "the learning rate, or look for values in batches that are not finite"
        )
    return jax.tree.map(jnp.astype, parameters, dtypes)


class _Step(NamedTuple):
    """What the bar says; the loss is waited for only where it is shown."""

    number: int
    loss: jax.Array

    def __str__(self) -> str:
        return f"step {self.number}, loss {float(self.loss):.4g}"
