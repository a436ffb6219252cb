"""Decoding over packed keys and values, beside attention over bfloat16 ones in the same run.

    python -m benchmarks.kv_attention [--tokens 4096 32768] [--heads 8] [--query-heads 8 32]
                                      [--size 128] [--repeats 30] [--inner 50]
                                      [--out benchmarks/results/kv_attention.json]

One new token asks one sequence that fills its cache: `attend` of each cache, with everything that
is around the kernel, and jax.nn.dot_product_attention, which is the ratio's peer, in XLA and, where
there is one, in cuDNN. Dense keys are float32 on a CPU and bfloat16 on an accelerator. A program
asks `inner` times, each question made of the answer before, so that what a call costs the host does
not count; nor does it count that XLA turns dense keys around, which it does once, before the first
(a cache that grows has to for each token). All programs of a table take turns; times are medians.
The bound is the time to read what the cache holds once at the bandwidth that a copy of 1 GiB
reached here. `off` is the difference to the same cache on the CPU, which has no kernel, relative to
the root mean square of its output.

On a CPU blocks are made dense and walked over; the numbers there say nothing of the kernels, and
the sizes are small.
"""

import argparse
import datetime
import json
import os
import platform
import re
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import jaxcomp as jc
from benchmarks.quant_matmul import copy_bandwidth, timed

console = Console(width=120)
KERNEL = re.compile(r"custom_call_target.*kv_attention/pallas_call")  # in a program's text


def caches(tokens):
    """label -> cache, every token packed."""
    kvcache, formats = jc.kvcache, jc.formats
    return {
        "int8": kvcache.quantized(formats.INT8, tokens),
        "int4": kvcache.quantized(formats.INT4, tokens),
        "int4 g32": kvcache.quantized(formats.INT4_G32, tokens),
        "int2 g32": kvcache.quantized(formats.UINT2_G32, tokens),
        "kivi 4": kvcache.kivi(tokens, bits=4, window=0),
        "kivi 2": kvcache.kivi(tokens, bits=2, window=0),
        "rotated 4": kvcache.rotated(tokens, bits=4),
        "rotated 2": kvcache.rotated(tokens, bits=2),
    }


def dense_attention(implementation):
    def attend(held, q):
        return jax.nn.dot_product_attention(q, *held, implementation=implementation)

    return attend


def asked(attend, inner):
    """`inner` questions one after another, in one program."""

    def run(held, q):
        return jax.lax.fori_loop(
            0, inner, lambda _, q: (q + 1e-3 * attend(held, q)).astype(q.dtype), q
        )

    return jax.jit(run)


def difference(attend, held, q):
    """Of the answer here and on the CPU, relative."""
    here = np.asarray(jax.jit(attend)(held, q), np.float32)
    cpu = jax.devices("cpu")[0]
    there = np.asarray(jax.jit(attend)(*jax.device_put((held, q), cpu)), np.float32)
    return float(np.sqrt(np.square(here - there).mean() / np.square(there).mean()))


def main():
    on_cpu = jax.default_backend() == "cpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = [512, 2048] if on_cpu else [4096, 32768]
    parser.add_argument("--tokens", type=int, nargs="+", default=sizes, help="of the sequence")
    parser.add_argument("--heads", type=int, default=8, help="of keys and values")
    parser.add_argument("--query-heads", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--size", type=int, default=128, help="of a head")
    parser.add_argument("--repeats", type=int, default=3 if on_cpu else 30, help="of each program")
    parser.add_argument("--inner", type=int, default=1 if on_cpu else 50, help="questions in one")
    parser.add_argument("--out", type=Path, help="where the numbers go, as JSON")
    arguments = parser.parse_args()
    dtype = jnp.float32 if on_cpu else jnp.bfloat16
    bandwidth = copy_bandwidth()
    results = {
        "date": datetime.date.today().isoformat(),
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}",
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "numpy")},
        "heads": arguments.heads,
        "size": arguments.size,
        "repeats": arguments.repeats,
        "inner": arguments.inner,
        "copy_bytes_per_second": bandwidth,
        "rows": [],
    }
    console.print(f"{results['device']} | {results['versions']} | copy {bandwidth / 1e9:.1f} GB/s")
    if on_cpu:
        console.print("No GPU or TPU here: no kernel runs, and the sizes are small.")
    for tokens in arguments.tokens:
        keys = jax.random.split(jax.random.key(0), 2)
        shape = (1, tokens, arguments.heads, arguments.size)
        dense = tuple(jax.random.normal(key, shape, dtype) for key in keys)
        held, attends = {}, {}
        for label, implementation in (("XLA", "xla"), ("cuDNN", "cudnn")):
            held[f"{dtype.__name__} {label}"] = dense
            attends[f"{dtype.__name__} {label}"] = dense_attention(implementation)
        if jax.default_backend() != "gpu":
            attends.popitem()
        for label, cache in caches(tokens).items():
            state = cache.init(1, arguments.heads, arguments.size, dtype)
            held[label] = jax.jit(cache.append)(state, *dense)
            attends[label] = lambda state, q, cache=cache: cache.attend(state, q)[0]
        for query_heads in arguments.query_heads:
            q = jax.random.normal(jax.random.key(1), (1, 1, query_heads, arguments.size), dtype)
            table_of(results, arguments, tokens, attends, held, q)
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


def table_of(results, arguments, tokens, attends, held, q):
    """Times every program, prints the table and adds its rows to the results."""
    programs, kernels = {}, {}
    for label, attend in attends.items():
        try:
            run = asked(attend, arguments.inner).lower(held[label], q).compile()
        except (RuntimeError, ValueError) as error:  # cuDNN does not take every shape
            console.print(f"{label}: {str(error).splitlines()[0]:.100}")
            continue
        programs[label] = run, (held[label], q)
        kernels[label] = bool(KERNEL.search(run.as_text()))
    seconds = timed(programs, arguments.repeats)
    base = next(iter(seconds.values()))
    dense_bytes = jc.tree.nbytes(held[next(iter(seconds))])
    table = Table(
        title=f"{tokens} tokens x {arguments.heads} heads x {arguments.size}, "
        f"{q.shape[2]} query heads"
    )
    for name in (
        "keys and values",
        "kernel",
        "us",
        "x dense",
        "bytes / dense",
        "of the bound",
        "off",
    ):
        table.add_column(name, justify="left" if name in ("keys and values", "kernel") else "right")
    for label, second in seconds.items():
        second /= arguments.inner
        moved = jc.tree.nbytes(held[label])
        bound = moved / results["copy_bytes_per_second"]
        row = {
            "tokens": tokens,
            "query_heads": q.shape[2],
            "held": label,
            "kernel": kernels[label],
            "seconds": second,
            "speedup": base / arguments.inner / second,
            "bytes": moved,
            "bytes_over_dense": moved / dense_bytes,
            "fraction_of_bound": bound / second,
            "off_cpu": difference(attends[label], held[label], q) if kernels[label] else None,
        }
        results["rows"].append(row)
        table.add_row(
            label,
            "yes" if row["kernel"] else "",
            f"{second * 1e6:.1f}",
            f"{row['speedup']:.2f}",
            f"{row['bytes_over_dense']:.3f}",
            f"{row['fraction_of_bound']:.2f}",
            "" if row["off_cpu"] is None else f"{row['off_cpu']:.1e}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
