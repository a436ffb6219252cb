"""Optimizers with small states: bytes held and the time of an update, beside optax.adam.

Run alone on a quiet machine; turns of all optimizers alternate, so that what disturbs one of them
disturbs the others. The load is kept with the numbers.
"""

import os
import statistics
import time

import jax
import jax.numpy as jnp
import optax

import jaxcomp as jc
from benchmarks.machine import machine
from benchmarks.optim_tasks import transformer_init
from jaxcomp import optim

LARGE = (2048, 4096)  # 8 M entries: 96 MB of parameters, gradients and two moments pass by
REPEATS = 15  # of the large leaf; ten times as many of the small tree
RATE = 1e-3


def optimizers():
    return {
        "optax.adam": optax.adam(RATE),
        "adam8bit": optim.adam8bit(RATE),
        "adam4bit": optim.adam4bit(RATE),
        "frugal": optim.frugal(RATE),
        "frugal of adam8bit": optim.frugal(RATE, inner=optim.scale_by_adam8bit()),
        "frugal 75 % of adam8bit": optim.frugal(RATE, 0.75, inner=optim.scale_by_adam8bit()),
        "lion8bit": optim.lion8bit(RATE),
        "momentum8bit": optim.momentum8bit(RATE),
    }


def measure(results, console):
    key = jax.random.key(0)
    trees = {
        "leaf": ({"w": 0.02 * jax.random.normal(key, LARGE)}, REPEATS),
        "tree": (transformer_init(key), 10 * REPEATS),
    }
    for label, (params, repeats) in trees.items():
        for name, row in timed(params, repeats).items():
            about = {**machine(), "load": round(os.getloadavg()[0], 1)}
            results.keep("time", f"{label}|{name}", row | about)
            console.print(
                f"  {label}: {name} {row['milliseconds']:.3f} ms, {row['times_adam']:.2f} x, "
                f"state {row['state_nbytes']} bytes, {row['state_ratio']:.4f} of adam's",
                highlight=False,
            )


def timed(params, repeats):
    """name -> what the state holds, and the median time of update and step."""
    gradients = jax.tree.map(lambda x: 0.1 * x + 1e-3, params)
    runs, rows = {}, {}
    for name, optimizer in optimizers().items():

        def step(params, state, gradients, optimizer=optimizer):
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        own = jax.tree.map(jnp.copy, params)
        runs[name] = jax.jit(step, donate_argnums=(0, 1)), [own, optimizer.init(own)], []
    for turn in range(repeats + 2):
        for run, held, times in runs.values():
            start = time.perf_counter()
            held[:] = jax.block_until_ready(run(*held, gradients))
            if turn >= 2:
                times.append(time.perf_counter() - start)
    base = runs["optax.adam"]
    for name, (_, held, times) in runs.items():
        pairs = [a / b for a, b in zip(times, base[2], strict=True)]
        nbytes = jc.tree.nbytes(held[1])
        rows[name] = {
            "milliseconds": 1e3 * statistics.median(times),
            "times_adam": statistics.median(pairs),
            "repeats": repeats,
            "state_nbytes": nbytes,
            "state_ratio": nbytes / jc.tree.nbytes(base[1][1]),
        }
    return rows
