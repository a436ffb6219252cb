"""What jaxcomp info prints of files of many arrays."""

import argparse
import json
from typing import Any

from jaxcomp.cli import common


def run(arguments: argparse.Namespace, source: Any) -> int:
    """Every array: dtype, shape, bytes, ratio, and how far it is from its order-0 entropy."""
    from jaxcomp.io.error_bound import bounds_of
    from jaxcomp.io.model_files import file_entries
    from jaxcomp.io.tensor_info import array_infos
    from jaxcomp.io.tensors import open_tensors

    if not arguments.quick:
        common.start_jax()
    options = {"base": arguments.base, "max_nbytes": arguments.max_bytes}
    with (
        common.naming(arguments.input),
        open_tensors(source, threads=arguments.threads, **options) as file,
    ):
        delta = file.header.get("base")
        entropy = not arguments.quick and (delta is None or arguments.base is not None)
        if delta and not entropy and not arguments.quick:
            common.note(arguments.input, "a delta; give its --base to see order-0 entropies")
        total = sum(row.nbytes for row in file.rows)
        with common.progress_bytes(total, "counting") as advance:
            infos = array_infos(file, entropy=entropy, progress=advance)
        bounds = bounds_of(file)
        files = file_entries(file) if "files" in file.index else []
        record = {
            "file": common.shown(arguments.input),
            "version": 2,
            "codec": "tensors",
            "kind": file.index.get("kind"),
            "bytes": file.nbytes,
            "original_bytes": total,
            "ratio": round(file.nbytes / max(total, 1), 6),
            "base": delta,
            "container_bytes": file.nbytes - sum(info.coded_nbytes for info in infos),
            "files": [entry[:3] for entry in files],
            "arrays": [
                _record(info, bounds.get(info.name)) for info in infos if info.name is not None
            ],
            "other": [_record(info, None) for info in infos if info.name is None],
        }
    if arguments.json:
        print(json.dumps(record))
        return 0
    rows = [
        [
            ascii(found["name"])[1:-1],
            found["dtype"],
            "x".join(map(str, found["shape"])) or "scalar",
            str(found["original_bytes"]),
            str(found["bytes"]),
            f"{found['ratio']:.3f}",
            _percent(found["over_order0"]),
            *([_bound(found)] if bounds else []),
        ]
        for found in record["arrays"]
    ]
    other = sum(found["original_bytes"] for found in record["other"])
    coded = sum(found["bytes"] for found in record["other"])
    print(record["file"])
    heads = [
        "array",
        "dtype",
        "shape",
        "bytes",
        "coded",
        "ratio",
        "to order 0",
        *(["largest error"] if bounds else []),
    ]
    print(common.table(heads, rows))
    print(f"{len(rows)} arrays; headers and other files {other} bytes, coded {coded}")
    if shared := sum(found["shared"] for found in record["arrays"]):
        print(f"{shared} arrays share chunks: coded is their part of them, by size")
    if delta:
        print(f"a delta against the file of SHA-256 {ascii(delta)[1:-1]}")
    print(f"in all {total} bytes, the file {file.nbytes}, {record['ratio']:.3f} of them")
    return 0


def _percent(over):
    """Of small arrays the entropy is that of nothing, and tables and headers are all."""
    if over is None:
        return ""
    return f"{100 * over:+.2f} %" if over < 1 else "> +100 %"


def _bound(found):
    """What no value is off by more than, and what was reached."""
    if found["bound"] is None:
        return "exact"
    return f"{found['error']:.3g} of {found['bound']:.3g} {found['bound_kind']}"


def _record(info, achieved) -> dict[str, Any]:
    from jaxcomp.io.error_bound import NAMES

    over = None
    if achieved is None and info.order0_nbytes:
        over = round(info.coded_nbytes / info.order0_nbytes - 1, 6)
    return {
        "name": info.name,
        "dtype": info.dtype,
        "shape": list(info.shape),
        "original_bytes": info.nbytes,
        "bytes": info.coded_nbytes,
        "shared": info.shared,
        "ratio": round(info.coded_nbytes / max(info.nbytes, 1), 6),
        "order0_bytes": None if info.order0_nbytes is None else round(info.order0_nbytes, 1),
        "over_order0": over,
        "bound_kind": None if achieved is None else NAMES[type(achieved.bound)],
        "bound": None if achieved is None else achieved.bound.bound,
        "error": None if achieved is None else achieved.error,
    }
