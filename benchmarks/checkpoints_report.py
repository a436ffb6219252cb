"""What the cells of benchmarks.checkpoints say: tables, and claims with verdicts."""

from rich.table import Table

OURS = "jaxcomp"
PEER = "zipnn"
STATES = {"Adam state f32": "float32", "Adam state bf16": "bfloat16"}  # and moments of float32
# What was set out to be shown: shares of the raw bytes, MB/s with two threads, in memory.
MOST = {"MiniLM bf16": 0.675, "Gaussian bf16": 0.675, "MiniLM f32": 0.845}
LEAST_MB_S = {"encode": 300, "decode": 800}
TIMED = "MiniLM bf16", "Gaussian bf16"
LEAST_DELTA = 1.15
WAYS = {"encode": "compresses", "decode": "decompresses"}


def delta_name(kind, ago):
    return f"{kind} since {ago} step{'s' * (ago > 1)} ago"


def speed(row, way):
    """MB/s of raw bytes."""
    return row["raw"] / row[way] / 1e6


def share(row):
    return row["nbytes"] / row["raw"]


def show(found, console):
    on = found["machine"]
    console.print(f"{on['date']}, {on['device']}, {on['versions']}", highlight=False)
    for name, cell in found["cells"].items():
        if name == "first use":
            continue
        title, mode, threads = name.split("|")
        best = best_peer(cell)
        table = Table(title=f"{title}, {mode}, {threads} threads", title_justify="left")
        ways = ("save", "restore") if mode == "orbax" else ("compress", "decompress")
        for column in ("of raw", "ratio", *(f"{way} MB/s" for way in ways), "n"):
            if not table.columns:
                table.add_column("")
            table.add_column(column, justify="right")
        if mode == "memory" and " since " not in title and title in found["bounds"]:
            ideal, raw = found["bounds"][title]
            table.add_row("order 0", f"{ideal / raw:.4f}", f"{raw / ideal:.4f}", "", "", "")
        for who, row in cell.items():
            speeds = [f"{speed(row, way):.0f}" for way in WAYS]
            table.add_row(who, f"{share(row):.4f}", f"{1 / share(row):.4f}", *speeds, str(row["n"]))
        if best:
            us = next(iter(cell.values()))
            times = [f"x {speed(us, way) / speed(cell[best], way):.2f}" for way in WAYS]
            size = f"x {share(cell[best]) / share(us):.4f}"
            table.add_row(f"to {best}", "", size, *times, "")
        console.print(table)
    for what, (first, second) in found["cells"].get("first use", {}).items():
        console.print(f"first use, {what}: {first:.2f} s, then {second:.3f} s", highlight=False)
    for line in claims(found):
        console.print(line, highlight=False)


def best_peer(cell):
    """Which peer leaves the fewest bytes, of those that code everything."""
    us = next(iter(cell.values()))
    peers = [name for name, row in cell.items() if row is not us and row["raw"] == us["raw"]]
    return min(peers, key=lambda name: share(cell[name]), default=None)


def verdict(holds, text):
    return f"{'holds' if holds else 'DOES NOT HOLD'}: {text}"


def claims(found):
    """Sentences that begin with a verdict, of those cells that are there."""
    cells, lines = found["cells"], []
    for name, most in MOST.items():
        if cell := cells.get(f"{name}|memory|2"):
            got = share(cell[OURS])
            lines.append(verdict(got <= most, f"{name}: {got:.4f} of raw, wanted {most}"))
    for name in TIMED:
        if cell := cells.get(f"{name}|memory|2"):
            lines += [at_least(name, cell[OURS], way) for way in WAYS]
    for name, cell in cells.items():
        if name == "first use" or PEER not in cell or " since " in name:
            continue
        us, them = cell[OURS], cell[PEER]
        size = share(them) / share(us)
        times = [speed(us, way) / speed(them, way) for way in WAYS]
        text = f"{name}: passes {PEER} in ratio x {size:.4f}, compression x {times[0]:.2f}, "
        lines.append(verdict(min(size, *times) > 1, f"{text}decompression x {times[1]:.2f}"))
    for kind in STATES:
        alone, after = (cells.get(f"{name}|memory|2") for name in (kind, delta_name(kind, 1)))
        if alone and after:
            times = alone[OURS]["nbytes"] / after[OURS]["nbytes"]
            text = f"{kind}: {times:.3f} x smaller against the step before than alone"
            lines.append(verdict(times >= LEAST_DELTA, f"{text}, wanted {LEAST_DELTA}"))
    return lines


def at_least(name, row, way):
    got, least = speed(row, way), LEAST_MB_S[way]
    return verdict(got >= least, f"{name} {WAYS[way]} at {got:.0f} MB/s, wanted {least}")
