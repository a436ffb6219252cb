"""The entropy coder beside its peers: speed and size, everything included, in one run.

    python benchmarks/coding.py [--repeats 7] [--peers .] [--out benchmarks/results/coding.json]

Ours is measured from an array of symbols on the host to bytes, and from bytes to the array: tables
built beforehand, as for the peers; lanes chosen by the library. All contenders code the same
symbols under the same integer tables, except constriction, whose Gaussian models are its own. The
environments of tensorflow-compression and CompressAI come from `make bench-peers`; a peer that is
not there is reported as missing.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import constriction
import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import norm

from jaxcomp.coding import build_tables, concrete, decode, encode, from_bytes, to_bytes

# Contenders take turns, so that a machine that slows down for a while does so for all of them.
ROUNDS = 3

HERE = Path(__file__).parent
PEERS = {
    "tensorflow-compression": (".venv-tfc", "tensorflow_compression_coder.py"),
    "CompressAI rANS": (".venv-peers", "compressai_coder.py"),
}


def gaussian_pmf(sigmas: np.ndarray) -> np.ndarray:
    """Probabilities of 64 unit bins around zero, the tails in the outermost."""
    edges = np.concatenate([[-np.inf], np.arange(1, 64) - 32.5, [np.inf]])
    return np.diff(norm.cdf(edges / sigmas[:, None]), axis=1)


def gaussian_message(count: int, sigmas: np.ndarray, precision: int):
    """(tables, symbols 0..63, index): rounded Gaussian samples of the scale of their table."""
    rng = np.random.default_rng(0)
    index = rng.integers(0, len(sigmas), count).astype(np.int32)
    samples = np.rint(rng.normal(size=count) * sigmas[index]).clip(-32, 31) + 32
    return build_tables(gaussian_pmf(sigmas), precision=precision), samples.astype(np.int32), index


def clock(function, repeats):
    """(median seconds, the result), after one call that compiles."""
    result, times = function(), []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def ours(tables, symbols, index, repeats):
    encode_s, data = clock(lambda: to_bytes(encode(tables, symbols, index)), repeats)
    decode_s, back = clock(lambda: decode(tables, from_bytes(data), index), repeats)
    if not (back == symbols).all():
        raise SystemExit("decoding did not return the message")
    lanes = from_bytes(data).head.size
    return {"encode": encode_s, "decode": decode_s, "bytes": len(data), "lanes": lanes}


def constriction_gaussian(symbols, sigma, repeats):
    model = constriction.stream.model.QuantizedGaussian(0, 63)
    mean, sigma = np.full(len(symbols), 32.0), sigma.astype(np.float64)

    def encode_all():
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(symbols, model, mean, sigma)
        return coder.get_compressed()

    encode_s, words = clock(encode_all, repeats)
    decode_s, _ = clock(
        lambda: constriction.stream.stack.AnsCoder(words).decode(model, mean, sigma), repeats
    )
    version = metadata.version("constriction")
    return {"encode": encode_s, "decode": decode_s, "bytes": words.nbytes, "version": version}


def peer(name, root, message, repeats):
    environment, script = PEERS[name]
    python = root / environment / "bin" / "python"
    if not python.exists():
        return None
    command = [str(python), str(HERE / "peers" / script), message, str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def median_row(rows):
    """One row of several rounds: median times; None where the peer is missing."""
    if rows[0] is None:
        return None
    times = {way: statistics.median(row[way] for row in rows) for way in ("encode", "decode")}
    return rows[0] | times


def measure(title, count, sigmas, precision, root, repeats):
    tables, symbols, index = gaussian_message(count, sigmas, precision)
    frequencies = np.asarray(tables.frequencies)
    table_bits = (precision - np.log2(frequencies[index, symbols])).sum()
    ideal = -np.log2(gaussian_pmf(sigmas)[index, symbols]).sum() / 8
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "message.npz")
        np.savez(path, frequencies=frequencies, precision=precision, symbols=symbols, index=index)
        for _ in range(ROUNDS):
            rows = {"jaxcomp": ours(tables, symbols, index, repeats)}
            rows["constriction Gaussian"] = constriction_gaussian(symbols, sigmas[index], repeats)
            rounds.append(rows | {name: peer(name, root, path, repeats) for name in PEERS})
    rows = {name: median_row([each[name] for each in rounds]) for name in rounds[0]}
    return {
        "title": title,
        "symbols": count,
        "precision": precision,
        "ideal_bytes": ideal,
        "table_bytes": table_bits / 8,
        "rows": rows,
    }


def show(console, result):
    us = result["rows"]["jaxcomp"]
    table = Table(title=result["title"])
    for column in (
        "coder",
        "encode Msym/s",
        "decode Msym/s",
        "bytes",
        "of the ideal",
        "encode x",
        "decode x",
    ):
        table.add_column(column, justify="left" if column == "coder" else "right")
    for name, row in result["rows"].items():
        if row is None:
            table.add_row(name, "missing: make bench-peers")
            continue
        speed = [f"{result['symbols'] / row[way] / 1e6:.1f}" for way in ("encode", "decode")]
        ratio = [f"{row[way] / us[way]:.2f}" for way in ("encode", "decode")]
        share = f"{row['bytes'] / result['ideal_bytes']:.4f}"
        table.add_row(name, *speed, str(row["bytes"]), share, *ratio)
    console.print(table)
    console.print(
        f"ideal {result['ideal_bytes']:.0f} bytes, of the integer tables "
        f"{result['table_bytes']:.0f}; {us['lanes']} lanes; limit 1.01x + 64 = "
        f"{1.01 * result['ideal_bytes'] + 64:.0f}\n"
    )


def compile_seconds(count):
    """First minus second call, of encode and decode, at a length that nothing has compiled yet."""
    tables, symbols, index = gaussian_message(count, np.geomspace(0.3, 12, 64), 16)
    jax.clear_caches()
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        data = encode(tables, symbols, index, lanes=1024)
        middle = time.perf_counter()
        decode(tables, data, index)
        seconds.append((middle - start, time.perf_counter() - middle))
    return [first - second for first, second in zip(*seconds, strict=True)]


def memory_bound(console):
    """What the machine copies: the bound of a coder that reads and writes 4 bytes per symbol."""
    array = np.zeros(1 << 26, np.uint8)
    seconds, _ = clock(array.copy, 5)
    console.print(f"copy: {2 * array.nbytes / seconds / 1e9:.1f} GB/s (read + write)\n")
    return 2 * array.nbytes / seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--peers", type=Path, default=HERE.parent, help="where .venv-tfc and .venv-peers are"
    )
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON")
    options = parser.parse_args()
    console = Console(width=110)
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
    device = f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}"
    console.print(
        f"{device}; Python {platform.python_version()}, {versions}; "
        f"median of {ROUNDS} rounds of {options.repeats}"
    )
    scales = np.geomspace(0.3, 12, 64)
    runs = [
        ("4 M symbols, 64 Gaussian tables of 64, precision 12", 1 << 22, scales, 12),
        ("4 M symbols, 64 Gaussian tables of 64, precision 16", 1 << 22, scales, 16),
        ("300 k symbols at 0.46 bit (sigma 0.28), precision 16", 300_000, np.full(64, 0.28), 16),
    ]
    results = []
    for run in runs:
        results.append(measure(*run, options.peers, options.repeats))
        show(console, results[-1])
    compiling = {count: compile_seconds(count) for count in (1 << 17, 1 << 21)}
    for count, (first, second) in compiling.items():
        console.print(
            f"compilation at {count} symbols: encode {first:.2f} s, decode {second:.2f} s"
        )
    bandwidth = memory_bound(console)
    if options.out:
        record = {
            "date": datetime.date.today().isoformat(),
            "device": device,
            "versions": versions | {"python": platform.python_version()},
            "repeats": options.repeats,
            "rounds": ROUNDS,
            "copy_bytes_per_second": bandwidth,
            "compile_seconds": compiling,
            "sample": concrete.SAMPLE,
            "results": results,
        }
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
