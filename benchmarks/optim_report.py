"""What the cells of benchmarks.optim say: tables, claims with verdicts, a picture."""

import math

import numpy as np
from rich.table import Table

from benchmarks.optim_methods import METHODS

# Rows that were chosen for it before they were judged, and how many times fewer bytes they send.
CLAIMED = {
    "dgc 1 % bfloat16 warm-up": 16,
    "ef21_momentum top_k 14 % float8 both ways": 16,
    "power_sgd 8 int8": 16,
    "one_bit_adam": 4,
}
UNITS = {"text": "nats a byte", "mnist": "nats a digit", "split": "nats a digit (the objective)"}


def rows_of(found, task):
    """Of every method whose cells are there: numbers over its seeds, against those of its base."""
    rows = {}
    for name, method in METHODS.items():
        cells, bases = cells_of(found, task, name), cells_of(found, task, method.base)
        if not cells or cells.keys() - bases.keys():
            continue
        losses = [last(cells[seed]) for seed in cells]
        excess = np.array([last(cells[s]) / last(bases[s]) - 1 for s in cells])
        dense = next(iter(bases.values()))["sent_nbytes"][-1]
        sent = [cell["sent_nbytes"][-1] for cell in cells.values()]
        more = {n: found["bytes"].get(f"{task}|{name}|{n}") for n in (64, 512)}
        wide = {n: found["bytes"].get(f"{task}|{method.base}|{n}") for n in (64, 512)}
        finite = np.isfinite(excess).all()
        rows[name] = {
            "rate": next(iter(cells.values()))["rate"],
            "loss": float(np.mean(losses)),
            "excess_percent": 100 * float(excess.mean()) if finite else math.inf,
            "error_percent": 100 * float(excess.std(ddof=1) / len(excess) ** 0.5)
            if finite and len(excess) > 1
            else math.nan,
            "nbytes": sent[0],
            "ratio": dense / sent[0],
            "ratios": {n: wide[n][0] / more[n][0] if more[n] and wide[n] else None for n in more},
            "seeds": len(cells),
        }
    return rows


def cells_of(found, task, name):
    """seed -> cell"""
    prefix = f"{task}|{name}|"
    cells = found["cells"]
    return {key[len(prefix) :]: cells[key] for key in cells if key.startswith(prefix)}


def last(cell):
    loss = cell["held_out"][-1]
    return math.inf if loss is None else loss


def show(found, console):
    for task, unit in UNITS.items():
        rows = rows_of(found, task)
        if not rows:
            continue
        table = Table(title=f"{task}: held-out loss in {unit}", title_justify="left")
        for name in ("method", "rate", "loss", "against its base", "MB sent", "x fewer bytes"):
            table.add_column(name, justify="left" if name == "method" else "right")
        for name in ("at 64", "at 512", "seeds"):
            table.add_column(name, justify="right")
        for name, row in rows.items():
            table.add_row(
                name,
                f"{row['rate']:g}",
                f"{row['loss']:.4f}",
                f"{row['excess_percent']:+.2f} ± {row['error_percent']:.2f} %",
                f"{row['nbytes'] / 1e6:.2f}",
                f"{row['ratio']:.2f}",
                *("" if x is None else f"{x:.2f}" for x in row["ratios"].values()),
                str(row["seeds"]),
            )
        console.print(table)
    for line in claims(found):
        console.print(line, highlight=False)


def verdict(holds, text):
    return f"{'holds' if holds else 'DOES NOT HOLD'}: {text}"


def within(row, percent, text):
    """Whether a row's excess is at most so much; open where two standard errors do not tell."""
    excess, error = row["excess_percent"], row["error_percent"]
    line = f"{text}: {excess:+.2f} ± {error:.2f} % at {row['ratio']:.1f} x"
    if excess > percent and excess - 2 * error <= percent:
        return f"open: {line}"
    return verdict(excess <= percent, line)


def claims(found):
    """Sentences that begin with a verdict, of those rows that are there."""
    lines = []
    for task in ("text", "mnist"):
        rows = {n: row for n, row in rows_of(found, task).items() if row["seeds"] > 1}
        for name, least in CLAIMED.items():
            if name not in rows:
                continue
            if rows[name]["ratio"] < least:
                ratio = rows[name]["ratio"]
                lines.append(
                    verdict(False, f"{task}: {name} sends {ratio:.1f} x less, not {least}")
                )
                continue
            text = f"{task}: {name} within 1 % of uncompressed at {least} x fewer bytes or more"
            lines.append(within(rows[name], 1, text))
        pair = "sign alone", "sign + EF"
        if all(name in rows for name in pair):
            bare, fed = (rows[name]["excess_percent"] for name in pair)
            error = math.hypot(*(rows[name]["error_percent"] for name in pair))
            lines.append(
                verdict(
                    bare > 2 and bare > fed + 2 * error,
                    f"{task}: signs without feedback are visibly worse: {bare:+.2f} %, with it "
                    f"{fed:+.2f} %, apart by {bare - fed:.2f} ± {error:.2f}",
                )
            )
        for name in ("adam8bit", *(name for name in METHODS if name.startswith("frugal"))):
            if name in rows:
                lines.append(within(rows[name], 0.5, f"{task}: {name} within 0.5 % of Adam"))
    rows = {name.split()[0]: row for name, row in rows_of(found, "split").items()}
    if "error_feedback" in rows:
        plain = rows["error_feedback"]["excess_percent"]
        for name in ("ef21", "econtrol"):
            if name in rows:
                lines.append(
                    verdict(
                        rows[name]["excess_percent"] < 0.5 < 5 < plain,
                        f"split: unlike senders, a constant rate: {name} comes to the minimum, "
                        f"{rows[name]['excess_percent']:+.3f} %, where plain feedback stays at "
                        f"{plain:+.1f} %",
                    )
                )
    return lines


def draw(found, path):
    """Held-out loss against bytes, a panel for each task."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks = [task for task in ("text", "mnist") if rows_of(found, task)]
    figure, axes = plt.subplots(1, len(tasks), figsize=(6.5 * len(tasks), 5.5), squeeze=False)
    colours = plt.get_cmap("tab20").colors
    for axis, task in zip(axes[0], tasks, strict=True):
        for i, name in enumerate(METHODS):
            cells = list(cells_of(found, task, name).values())
            if not cells or any(None in cell["held_out"] for cell in cells):
                continue
            style = "-" if i < 20 else "--"
            curve = np.mean([cell["held_out"] for cell in cells], 0)
            sent = np.array(cells[0]["sent_nbytes"]) / 1e6
            axis.plot(sent, curve, style, color=colours[i % 20], label=name, linewidth=1.3)
            axis.plot(sent[-1], curve[-1], "o", color=colours[i % 20], markersize=4)
        axis.set_xscale("log")
        starts = [cell["held_out"][0] for cell in cells_of(found, task, "nesterov").values()]
        axis.set_ylim(top=1.25 * max(starts))
        axis.set_title(f"{task}: 8 senders, mean of three seeds", loc="left", fontsize=10)
        axis.set_xlabel("MB sent by one device")
        axis.set_ylabel(f"held-out loss, {UNITS[task]}")
        axis.grid(alpha=0.3, which="both")
    lines = {
        label: line
        for axis in axes[0]
        for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    order = [name for name in METHODS if name in lines]
    figure.tight_layout()
    figure.legend(
        [lines[name] for name in order],
        order,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        fontsize=8,
        frameon=False,
    )
    figure.savefig(path, dpi=100, bbox_inches="tight")
