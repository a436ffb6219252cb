"""The rANS kernels on the device at hand: Gsym/s, GB/s, and the fraction of its copy bandwidth.

    python benchmarks/kernels.py [--repeats 7] [--out benchmarks/results/kernels.json]

64 Gaussian tables of 64 symbols at precision 12 and 16; 1 M, 16 M and 256 M symbols drawn from
them; everything stays on the device. Lanes are what the library chooses for the message, and, since
short messages give a wide device little to do, also 2**17. Every row is decoded and compared with
what was encoded, and the 1 M rows with the bytes of the reference on the CPU. Traffic is what a
kernel has to move: intervals in and words out, or words and table numbers in and symbols out.

Without a GPU or TPU nothing is timed. What the kernels would be lowered to is printed instead;
`make test-aot` compiles it.
"""

import argparse
import datetime
import functools
import json
import platform
import re
import statistics
import sys
import time
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh
from rich.console import Console
from rich.table import Table
from scipy.stats import norm

from jaxcomp.coding import build_tables, choose_lanes
from jaxcomp.coding.stream import INITIAL_HEAD, split_lanes
from jaxcomp.kernels import rans_decode, rans_encode

SIZES = (1 << 20, 1 << 24, 1 << 28)
TABLES = 64
MANY_LANES = 1 << 17  # a warp for each of 1024 groups: 8 on every multiprocessor of an H200
CHIPS = {
    "cuda": AbstractDevice(device_kind="NVIDIA H200", num_cores=1, platform="gpu"),
    "tpu": AbstractDevice(device_kind="TPU v5e", num_cores=1, platform="tpu"),
}


def gaussian_tables(precision):
    edges = np.concatenate([[-np.inf], np.arange(1, 64) - 32.5, [np.inf]])
    sigma = np.geomspace(0.28, 12, TABLES)[:, None]
    return build_tables(np.diff(norm.cdf(edges / sigma), axis=1), precision=precision)


@functools.partial(jax.jit, static_argnames=("shape", "precision"))
def draw(entries, directory, *, shape, precision):
    """(symbols, index, intervals), each of shape (groups, steps, lanes), drawn from the tables."""
    keys = jax.random.split(jax.random.key(0))
    index = jax.random.randint(keys[0], shape, 0, TABLES)
    slot = jax.random.randint(keys[1], shape, 0, 1 << precision)
    bucket = directory[index, slot >> 4]
    starts = bucket & ((2 << (slot & 15)) - 1).astype(jnp.uint32) & 0xFFFF
    symbols = ((bucket >> 16) + jax.lax.population_count(starts)).astype(jnp.int32) & 0xFFFF
    return symbols, index, entries[index, symbols]


def coders(shape, precision):
    """(encode, decode) of the given (groups, steps, lanes), jitted."""
    steps, lanes = shape[1:]
    encode = functools.partial(rans_encode.run, capacity=steps * lanes, precision=precision)
    decode = functools.partial(rans_decode.run, precision=precision, steps=steps)
    return jax.jit(encode), jax.jit(decode)


def seconds(function, calls, repeats):
    """Median time of one of `calls` calls in a row, after one that compiles."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready([function() for _ in range(calls)][-1])
        times.append((time.perf_counter() - start) / calls)
    return statistics.median(times)


def copy_bandwidth(repeats):
    """Bytes read and written per second when 1 GiB is copied on the device."""
    source = jnp.zeros(1 << 28, jnp.uint32)
    copy = jax.jit(lambda x: x + 1)
    return 2 * source.nbytes / seconds(lambda: copy(source), 1, repeats)


def measure(count, precision, lanes, copy, repeats):
    """One row: count symbols in lanes lanes (None: as the library chooses)."""
    tables = gaussian_tables(precision)
    frequency = np.asarray(tables.frequencies) / (1 << precision)
    bits = -(frequency * np.log2(frequency)).sum(1).mean() * count
    groups, per_group = split_lanes(lanes or choose_lanes(bits))
    shape = (groups, count // (groups * per_group), per_group)
    symbols, index, intervals = draw(
        tables.entries, tables.directory, shape=shape, precision=precision
    )
    head = jnp.full((groups, per_group), INITIAL_HEAD, jnp.uint32)
    valid = jnp.full(groups, shape[1] * per_group, jnp.int32)
    encode, decode = coders(shape, precision)
    lookup = (tables.entries, tables.directory)
    stacks = encode(head, intervals)
    back, start, left = decode(*stacks, lookup, index, valid)
    if not (bool((back == symbols).all()) and bool((start == head).all()) and not left.any()):
        raise SystemExit(f"{shape} at precision {precision}: decoding did not return the message")
    if count == SIZES[0]:
        with jax.default_device(jax.devices("cpu")[0]):
            reference = functools.partial(
                rans_encode.reference, capacity=stacks[1].shape[1], precision=precision
            )
            expected = jax.jit(reference)(np.asarray(head), np.asarray(intervals))
        if not all(
            (np.asarray(a) == np.asarray(b)).all() for a, b in zip(stacks, expected, strict=True)
        ):
            raise SystemExit(f"{shape} at precision {precision}: not the bytes of the reference")
    calls = max(1, SIZES[1] // count)
    encode_s = seconds(lambda: encode(head, intervals), calls, repeats)
    decode_s = seconds(lambda: decode(*stacks, lookup, index, valid), calls, repeats)
    heads = 2 * head.nbytes
    row = {"symbols": count, "precision": precision, "lanes": groups * per_group}
    moved = {
        "encode": intervals.nbytes + stacks[1].nbytes + heads,
        "decode": index.nbytes + symbols.nbytes + 2 * int(stacks[2].sum()) + heads,
    }
    for name, time_s in (("encode", encode_s), ("decode", decode_s)):
        row[name] = {
            "milliseconds": 1e3 * time_s,
            "gsym_per_second": count / time_s / 1e9,
            "gb_per_second": moved[name] / time_s / 1e9,
            "of_copy": moved[name] / time_s / copy,
        }
    return row


def show(console, rows, copy):
    table = Table(title=f"rANS kernels; a copy moves {copy / 1e9:.0f} GB/s")
    for column in ("symbols", "precision", "lanes"):
        table.add_column(column, justify="right")
    for name in ("encode", "decode"):
        for column in ("ms", "Gsym/s", "GB/s", "of copy"):
            table.add_column(f"{name} {column}", justify="right")
    for row in rows:
        cells = [f"{row['symbols']:,}", str(row["precision"]), str(row["lanes"])]
        for name in ("encode", "decode"):
            cell = row[name]
            cells += [f"{cell['milliseconds']:.3f}", f"{cell['gsym_per_second']:.2f}"]
            cells += [f"{cell['gb_per_second']:.0f}", f"{cell['of_copy']:.1%}"]
        table.add_row(*cells)
    console.print(table)


def show_static_facts(console):
    """What the kernels are lowered to for chips that are not here."""
    table = Table(title="lowered, not run")
    for column in ("chip", "symbols", "kernel", "calls", "bytes in", "bytes out", "lowering s"):
        table.add_column(column, justify="right")
    for name, chip in CHIPS.items():
        for count in SIZES:
            groups, lanes = split_lanes(MANY_LANES)
            shape = (groups, count // MANY_LANES, lanes)
            plane, state = jax.ShapeDtypeStruct(shape, jnp.uint32), (groups,)
            head = jax.ShapeDtypeStruct((groups, lanes), jnp.uint32)
            index, per_group = (jax.ShapeDtypeStruct(s, jnp.int32) for s in (shape, state))
            lookup = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
                (gaussian_tables(12).entries, gaussian_tables(12).directory),
            )
            encode, decode = coders(shape, 12)
            stacks = jax.eval_shape(encode, head, plane)
            for function, arguments in (
                (encode, (head, plane)),
                (decode, (*stacks, lookup, index, per_group)),
            ):
                start = time.perf_counter()
                with use_abstract_mesh(AbstractMesh((1,), ("_",), abstract_device=chip)):
                    lowered = function.trace(*arguments).lower(lowering_platforms=(name,))
                took = time.perf_counter() - start
                calls = re.findall(r"custom_call @([\w$.]+)", lowered.as_text())
                sizes = [
                    sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
                    for tree in (arguments, lowered.out_info)
                ]
                cells = (", ".join(calls), f"{sizes[0]:,}", f"{sizes[1]:,}", f"{took:.2f}")
                what = "encode" if function is encode else "decode"
                table.add_row(chip.device_kind, f"{count:,}", what, *cells)
    console.print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    device = jax.devices()[0]
    versions = {name: metadata.version(name) for name in ("jaxcomp", "jax", "jaxlib")}
    console.print(f"{device.device_kind}, {versions}, {datetime.date.today()}")
    if device.platform == "cpu":
        console.print("No GPU or TPU here: nothing is timed.")
        show_static_facts(console)
        return
    copy = copy_bandwidth(options.repeats)
    rows = [
        measure(count, precision, lanes, copy, options.repeats)
        for count in SIZES
        for precision in (12, 16)
        for lanes in (None, MANY_LANES)
    ]
    show(console, rows, copy)
    if options.out:
        record = {
            "date": datetime.date.today().isoformat(),
            "device": device.device_kind,
            "versions": versions | {"python": platform.python_version()},
            "repeats": options.repeats,
            "copy_bytes_per_second": copy,
            "rows": rows,
        }
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
