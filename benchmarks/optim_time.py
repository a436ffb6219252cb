"""Optimizers with small states: bytes held and the time of an update, beside optax.adam.

Run alone on a quiet machine; turns of all optimizers alternate, so that what disturbs one of them
disturbs the others. A turn is two steps, of which the second counts: what another optimizer left
in the caches does not. The load is kept with the numbers.

"bytes of adam8bit" are the loops of adam8bit with what they compute left out, so that only their
bytes move. The leaf in the cache is the hard one: there optax.adam waits for arithmetic alone, of
which it has little; of the large leaf it waits for memory. A program that needs more than 32 MiB
beside its arguments gets fresh pages from glibc in every step, and waits for the kernel to clear
them: page faults are counted (MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ of 1 GB or more
show the step without).
"""

import contextlib
import os
import resource
import statistics
import time

import jax
import jax.numpy as jnp
import optax

import jaxcomp as jc
from benchmarks.machine import machine
from benchmarks.optim_tasks import transformer_init
from jaxcomp import optim
from jaxcomp.kernels import adam8bit_cpu
from jaxcomp.kernels.dynamic_map import SIGNED, UNSIGNED

LARGE = (2048, 4096)  # 8 Mi entries: 224 MiB are read or written by optax.adam
IN_CACHE = (256, 4096)  # 1 Mi entries: 16 MiB of parameters, gradients and two moments
REPEATS = 15  # of the large leaf; ten times as many of the others
RATE = 1e-3
BYTES = "bytes of adam8bit"


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


def bytes_alone():
    """The loops of adam8bit with sums in place of the rule, of levels and of codes."""
    kinds = {"rule": moved, "maps": (SIGNED, UNSIGNED), "block": 256}

    def init(params):
        scales = jax.tree.map(lambda p: jnp.ones((*p.shape[:-1], p.shape[-1] // 256)), params)
        codes = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.uint8), params)
        return jax.tree.map(lambda c, s: (c, s, c + 1, s + 1), codes, scales)

    def update(updates, state, params=None):
        leaves, structure = jax.tree.flatten(updates)
        held = structure.flatten_up_to(state)
        numbers = jnp.ones(4)
        with without_arithmetic():
            found = [
                adam8bit_cpu.cpu(g, numbers, *old, **kinds)
                for g, old in zip(leaves, held, strict=True)
            ]
        outs, news = [x[0] for x in found], [tuple(x[1:]) for x in found]
        return structure.unflatten(outs), structure.unflatten(news)

    return optax.chain(
        optax.GradientTransformation(init, update), optax.scale_by_learning_rate(RATE)
    )


def moved(g, moments, numbers):
    m, v = moments
    return m + v + g, (numbers[0] * m + g, numbers[2] * v + g)


@contextlib.contextmanager
def without_arithmetic():
    """While it lasts, what is traced neither looks levels up nor finds codes."""
    kept = adam8bit_cpu.look_up, adam8bit_cpu.encode
    adam8bit_cpu.look_up = lambda codes, map: codes.astype(jnp.float32) * 2.0**-8
    adam8bit_cpu.encode = lambda x, map: jax.lax.bitcast_convert_type(x, jnp.int32) & 255
    try:
        yield
    finally:
        adam8bit_cpu.look_up, adam8bit_cpu.encode = kept


def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def measure(results, console):
    key = jax.random.key(0)
    every = optimizers()
    trees = {
        "leaf": ({"w": 0.02 * jax.random.normal(key, LARGE)}, every | {BYTES: bytes_alone()}, 1),
        "leaf in the cache": ({"w": 0.02 * jax.random.normal(key, IN_CACHE)}, every, 10),
        "tree": (transformer_init(key), every, 10),
    }
    for label, (params, optimizers_of_it, times) in trees.items():
        for name, row in timed(params, optimizers_of_it, times * REPEATS).items():
            about = {**machine(), "load": round(os.getloadavg()[0], 1)}
            results.keep("time", f"{label}|{name}", row | about)
            console.print(
                f"  {label}: {name} {row['milliseconds']:.3f} ms, {row['times_adam']:.2f} x, "
                f"state {row['state_nbytes']} bytes, {row['state_ratio']:.4f} of adam's, "
                f"beside it {row['temporary_nbytes']}, page faults {row['page_faults']:.0f}",
                highlight=False,
            )


def timed(params, optimizers, repeats):
    """name -> what the state holds, and the median time of update and step."""
    gradients = jax.tree.map(lambda x: 0.1 * x + 1e-3, params)
    runs, rows = {}, {}
    for name, optimizer in optimizers.items():

        def step(params, state, gradients, optimizer=optimizer):
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        own = jax.tree.map(jnp.copy, params)
        held = [own, optimizer.init(own)]
        run = jax.jit(step, donate_argnums=(0, 1))
        memory = run.lower(*held, gradients).compile().memory_analysis().temp_size_in_bytes
        runs[name] = run, held, [], [], memory
    for turn in range(repeats + 2):
        for run, held, times, faults, _ in runs.values():
            held[:] = jax.block_until_ready(run(*held, gradients))
            before, start = page_faults(), time.perf_counter()
            held[:] = jax.block_until_ready(run(*held, gradients))
            if turn >= 2:
                times.append(time.perf_counter() - start)
                faults.append(page_faults() - before)
    base = runs["optax.adam"]
    for name, (_, held, times, faults, memory) in runs.items():
        pairs = [a / b for a, b in zip(times, base[2], strict=True)]
        nbytes = jc.tree.nbytes(held[1])
        rows[name] = {
            "milliseconds": 1e3 * statistics.median(times),
            "times_adam": statistics.median(pairs),
            "repeats": repeats,
            "state_nbytes": nbytes,
            "state_ratio": nbytes / jc.tree.nbytes(base[1][1]),
            "temporary_nbytes": memory,
            "page_faults": statistics.median(faults),
        }
    return rows
