"""Seconds that methods take for one large layer: compilation and run apart.

    python -m benchmarks.weights_layer [--size 4096] [--out benchmarks/results/weights_layer.json]

A normal weight [size, size] and the second moments of 2 size correlated vectors. The first call
compiles; the second, with another weight, does not. Error: of the output, relative to the output's.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import jaxcomp as jc
from benchmarks.machine import machine

F, W = jc.formats, jc.weights
METHODS = {
    "rtn": W.rtn(F.INT4_G128),
    "rtn, clipped": W.rtn(F.INT4_G128, clip=True),
    "hqq": W.hqq(F.UINT4_G128._replace(zero="bfloat16")),
    "gptq": W.gptq(F.INT4_G128, order="none"),
    "gptq, activation order": W.gptq(F.INT4_G128, order="activation"),
    "gptq, group order": W.gptq(F.INT4_G128, order="group"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=4096, help="inputs and outputs")
    parser.add_argument("--out", type=Path, help="where the numbers go, as JSON")
    arguments = parser.parse_args()
    size = arguments.size
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2 * size, size)).astype(np.float32)
    x += 0.7 * np.roll(x, 1, 1)
    x *= np.exp(0.5 * rng.normal(size=size)).astype(np.float32)  # some inputs are larger
    weights = [{"w": jnp.asarray(rng.normal(size=(size, size)), jnp.float32)} for _ in range(2)]
    stats = jc.observe(lambda params, x: x @ params["w"], weights[0], [jnp.asarray(x)])
    some = jnp.asarray(x[:256])
    rows = []
    for label, method in METHODS.items():
        seconds = []
        for params in weights:
            start = time.perf_counter()
            small = W.compress(params, method, stats=stats)
            jax.block_until_ready(jax.tree.leaves(small))
            seconds.append(time.perf_counter() - start)
        y = some @ weights[1]["w"]
        error = float(((some @ small["w"].dense() - y) ** 2).sum() / (y**2).sum())
        bits = jc.tree.bits_per_weight(small)
        rows.append(
            {
                "method": label,
                "bits_per_weight": bits,
                "compile_seconds": seconds[0] - seconds[1],
                "run_seconds": seconds[1],
                "relative_error": error,
            }
        )
    table = Table(title=f"{size} x {size}, 4 bits, groups of 128")
    for name in rows[0]:
        table.add_column(name.replace("_", " "))
    for row in rows:
        table.add_row(*(v if isinstance(v, str) else f"{v:.4g}" for v in row.values()))
    Console().print(table)
    if arguments.out:
        arguments.out.write_text(
            json.dumps({**machine(), "size": size, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
