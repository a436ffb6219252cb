"""Products with packed weights through lift, beside the dense product in the same run.

    python -m benchmarks.quant_matmul [--size 4096] [--rows 1 8 64] [--repeats 30]
                                      [--out benchmarks/results/quant_matmul.json]

One [size, size] weight in both layouts, kernel [in, out] and matrix [out, in]. The dense product is
float32 on a CPU and bfloat16 on an accelerator. All programs of a table take turns, so that a busy
machine is equally busy for all; times are medians. The bound is the time to read the weight once at
the bandwidth that a copy of 1 GiB reached here; a weight that stays in a cache is read faster.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import jaxcomp as jc

console = Console(width=120)


def dense_product(params, x):
    return x @ params["w"]


def dense_product_transposed(params, x):
    return jnp.einsum("mi,oi->mo", x, params["w"])


LAYOUTS = {"(in, out)": (dense_product, -2), "(out, in)": (dense_product_transposed, -1)}


def methods(dtype):
    """label -> what makes the leaf."""
    formats, weights = jc.formats, jc.weights
    return {
        "W8A8 per channel": weights.activation(weights.rtn(formats.INT8), "int8"),
        "int8 per channel": weights.rtn(formats.INT8),
        "int4 g128": weights.rtn(formats.INT4_G128),
        "int2 g64": weights.rtn(formats.INT2_G64),
        "nf4 g64": weights.rtn(formats.NF4),
    }


def timed(programs, repeats):
    """{label: median seconds}; the programs take turns."""
    for run, arguments in programs.values():
        for _ in range(3):
            jax.block_until_ready(run(*arguments))
    found = {label: [] for label in programs}
    for _ in range(repeats):
        for label, (run, arguments) in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*arguments))
            found[label].append(time.perf_counter() - start)
    return {label: statistics.median(seconds) for label, seconds in found.items()}


def copy_bandwidth():
    """Bytes per second, read and written, of a copy on the device."""
    x = jnp.zeros(1 << 28, jnp.float32)
    (seconds,) = timed({"copy": (jax.jit(lambda x: x + 1), (x,))}, 5).values()
    return 2 * x.nbytes / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=4096, help="inputs and outputs")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 64], help="rows of x")
    parser.add_argument("--repeats", type=int, default=30, help="of each program")
    parser.add_argument("--out", type=Path, help="where the numbers go, as JSON")
    arguments = parser.parse_args()
    backend = jax.default_backend()
    dtype = jnp.float32 if backend == "cpu" else jnp.bfloat16
    bandwidth = copy_bandwidth()
    results = {
        "date": datetime.date.today().isoformat(),
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}",
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "numpy")},
        "size": arguments.size,
        "repeats": arguments.repeats,
        "copy_bytes_per_second": bandwidth,
        "rows": [],
    }
    console.print(f"{results['device']} | {results['versions']} | copy {bandwidth / 1e9:.1f} GB/s")
    rng = np.random.default_rng(0)
    shape = (arguments.size, arguments.size)
    w = jnp.asarray(rng.normal(size=shape) / np.sqrt(arguments.size), dtype)
    for layout, (fn, axis) in LAYOUTS.items():
        leaves = {
            label: jc.weights.compress({"w": w}, method, axes=axis)
            for label, method in methods(dtype).items()
        }
        for rows in arguments.rows:
            x = jnp.asarray(rng.normal(size=(rows, arguments.size)), dtype)
            programs = {f"dense {dtype.__name__}": (jax.jit(fn), ({"w": w}, x))}
            for label, small in leaves.items():
                programs[label] = jax.jit(jc.lift(fn, strict=True)), (small, x)
            seconds = timed(programs, arguments.repeats)
            base = next(iter(seconds.values()))
            table = Table(title=f"{arguments.size} x {arguments.size}, {layout}, {rows} rows of x")
            for name in ("weight", "ms", "x dense", "bytes / dense", "of the bound"):
                table.add_column(name, justify="left" if name == "weight" else "right")
            for label, second in seconds.items():
                held = jc.tree.nbytes(leaves[label]) if label in leaves else w.nbytes
                bound = held / bandwidth
                row = {
                    "layout": layout,
                    "rows": rows,
                    "weight": label,
                    "seconds": second,
                    "speedup": base / second,
                    "bytes_over_dense": held / w.nbytes,
                    "fraction_of_bound": bound / second,
                }
                results["rows"].append(row)
                table.add_row(
                    label,
                    f"{second * 1e3:.2f}",
                    f"{base / second:.2f}",
                    f"{held / w.nbytes:.3f}",
                    f"{bound / second:.2f}",
                )
            console.print(table)
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
