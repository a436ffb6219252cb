"""What jaxcomp compress does with models that need not come back bit for bit."""

import argparse
import os
import time
from typing import Any

from jaxcomp.base import UnsupportedInput
from jaxcomp.cli import common

# Names of jaxcomp.formats, as they are written on a command line.
FORMATS = {
    name.lower().replace("_", "-"): name
    for name in (
        *("INT8", "INT8_G128", "INT4", "INT4_G128", "INT4_G64", "INT4_G32"),
        *("INT3_G128", "INT3_G64", "INT3_G32", "INT2_G64", "INT2_G32"),
        *("FP8_E4M3", "FP4_G32", "MXFP4", "MXFP8", "NVFP4", "NF4", "NF4_DOUBLE"),
    )
}
# Methods of jaxcomp.weights that need no data.
OPTIONS = "error_bound", "bound_kind", "target_ratio", "format", "method", "axis"
METHODS = "rtn", "rtn-clip", "hqq", "power"
LEAST = 4096  # values: what is smaller is no matrix of weights, and stays as it is


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    group = parser.add_argument_group("models with loss")
    group.add_argument(
        "--error-bound", type=common.positive_float, metavar="E", help="no value is off by more"
    )
    group.add_argument(
        "--bound-kind",
        choices=("absolute", "relative", "range"),
        help="of E: itself, times each value, or times max - min of each array (default range)",
    )
    group.add_argument(
        "--target-ratio", type=common.positive_float, metavar="R", help="find E: R times smaller"
    )
    group.add_argument("--format", metavar="NAME", help="weights of few bits, such as int4-g128")
    group.add_argument("--method", metavar="NAME", help="how they are rounded (default rtn)")
    group.add_argument(
        "--axis",
        type=int,
        choices=(-1, 0),
        help="of weights, which products sum over: -1 as in PyTorch (default), 0 as in Flax",
    )


def is_lossy(arguments: argparse.Namespace) -> bool:
    """Whether any of these options was given."""
    return any(getattr(arguments, name) is not None for name in OPTIONS)


def run(arguments: argparse.Namespace) -> int:
    """One file or folder to one .jxc file, with the loss that was asked for."""
    bounded = arguments.error_bound is not None or arguments.target_ratio is not None
    if bounded == (arguments.format is not None):
        raise UnsupportedInput(
            "expected one of --error-bound, --target-ratio and --format; --bound-kind goes with "
            "the first two, --method and --axis with the last"
        )
    if arguments.error_bound is not None and arguments.target_ratio is not None:
        raise UnsupportedInput("expected one of --error-bound and --target-ratio, got both")
    wrong = ("method", "axis") if bounded else ("bound_kind", "base", "threads")
    for name in wrong:
        if getattr(arguments, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise UnsupportedInput(f"{option} does not go with the others; leave it out")
    source, output = arguments.photo, arguments.output
    common.check_output(output, inputs=[source])
    start = time.perf_counter()
    common.start_jax()
    with common.naming(source):
        record = (_bounded if bounded else _weights)(arguments, source, output)
    record = {
        "input": common.shown(source),
        "output": common.shown(output),
        **record,
        "ratio": round(record["bytes"] / max(record["original_bytes"], 1), 6),
        **common.speed(record["original_bytes"], time.perf_counter() - start),
    }
    line = (
        f"{record['input']} -> {record['output']}: {record['arrays']} arrays, {record['what']}, "
        f"{record['original_bytes']} -> {record['bytes']} bytes, {record['ratio']:.3f} of them"
    )
    common.report(line, record, arguments, output)
    return 0


def _bounded(arguments, source, output) -> dict[str, Any]:
    """Every array of floats within the bound."""
    from jaxcomp.io.error_bound import KINDS, bounds_of
    from jaxcomp.io.model_arrays import model_arrays
    from jaxcomp.io.tensors import open_tensors, save_tensors

    if output == common.PIPE:
        raise UnsupportedInput("expected OUT.jxc, which is read again, got a pipe")
    kind = KINDS[arguments.bound_kind or "range"]
    bound = kind if arguments.error_bound is None else kind(arguments.error_bound)
    options = {"target_ratio": arguments.target_ratio, "base": arguments.base}
    total = _nbytes(source)
    with common.progress_bytes(total, "compressing") as advance:
        save_tensors(
            output,
            lambda: model_arrays(source),
            bound=bound,
            threads=arguments.threads,
            progress=advance,
            **options,
        )
    with open_tensors(output, base=arguments.base) as file:
        said = bounds_of(file)
        original = sum(row.nbytes for row in file.rows)
        count, nbytes = len(file.rows), file.nbytes
    first = next(iter(said.values()), None)
    value = bound.bound if first is None else first.bound.bound
    worst = max((x.error for x in said.values()), default=0.0)
    common.note(source, "arrays are kept, by name; they become .safetensors, not the same bytes")
    return {
        "what": f"{len(said)} with a bound ({arguments.bound_kind or 'range'} {value:.4g})",
        "arrays": count,
        "bounded_arrays": len(said),
        "bound_kind": arguments.bound_kind or "range",
        "error_bound": value,
        "largest_error": worst,
        "original_bytes": original,
        "bytes": nbytes,
    }


def _weights(arguments, source, output) -> dict[str, Any]:
    """Matrices of weights in a number format, and all else as it is."""
    import jax.numpy as jnp
    import numpy as np

    import jaxcomp as jc
    from jaxcomp.io.model_arrays import model_arrays

    if output == common.PIPE:
        raise UnsupportedInput("expected OUT.jxc, got a pipe")
    number, method, axis = arguments.format.lower(), arguments.method or "rtn", arguments.axis
    if number not in FORMATS or method not in METHODS:
        raise UnsupportedInput(
            f"expected --format among {', '.join(FORMATS)} and --method among "
            f"{', '.join(METHODS)}, got {ascii(number)} and {ascii(method)}"
        )
    found = getattr(jc.formats, FORMATS[number])
    axis = -1 if axis is None else axis
    group = found.group if found.group and found.group > 0 else 1

    def where(path, x):
        return x.ndim == 2 and x.size >= LEAST and x.shape[axis] % group == 0

    # In memory: a file that is mapped may change.
    arrays = {name: x() if callable(x) else np.array(x) for name, x in model_arrays(source)}
    chosen = {
        name: jnp.asarray(x)
        for name, x in arrays.items()
        if jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 8 and where(name, x)
    }
    if not chosen:
        raise UnsupportedInput(
            f"expected matrices of at least {LEAST} floats whose axis {axis} divides by {group}, "
            "found none; choose another --format or --axis"
        )
    small = jc.weights.compress(chosen, _transform(jc, method, found), axes=axis)
    nbytes = jc.io.save_weights(output, {**arrays, **small})
    common.note(source, f"{len(arrays) - len(small)} arrays that are no such matrices stay exact")
    common.note(output, "jaxcomp.io.load_weights reads it, jaxcomp convert writes other formats")
    return {
        "what": f"{len(small)} as {number} by {method}",
        "arrays": len(arrays),
        "compressed_arrays": len(small),
        "format": number,
        "method": method,
        "original_bytes": sum(x.nbytes for x in arrays.values()),
        "bytes": nbytes,
    }


def _transform(jc, method, found):
    if method == "hqq":  # whose zeros are real numbers
        if found.table is not None:
            raise UnsupportedInput(
                "expected --format int... for --method hqq, got a table of values"
            )
        return jc.weights.hqq(found._replace(offset=0, zero="bfloat16"))
    if method == "rtn-clip":
        return jc.weights.rtn(found, clip=True)
    return getattr(jc.weights, method)(found)


def _nbytes(source):
    paths = [source]
    if os.path.isdir(source):
        paths = [os.path.join(top, name) for top, _, names in os.walk(source) for name in names]
    return sum(os.path.getsize(path) for path in paths if os.path.isfile(path))
