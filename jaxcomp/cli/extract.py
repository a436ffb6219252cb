"""jaxcomp extract: one array of a .jxc file, for which the others are not read."""

import argparse
import os
import time

from jaxcomp.base import UnsupportedInput
from jaxcomp.cli import common

EPILOG = """\
examples:
  jaxcomp extract model.jxc encoder.layer.0.output.dense.weight w.npy
  jaxcomp extract model.jxc embeddings.word_embeddings.weight rows.npy --rows 1000:1010
  jaxcomp extract model.jxc lm_head.weight w.safetensors     bfloat16 and float8, which .npy has not
  jaxcomp info model.jxc --quick                             the names

Only the chunks that hold what is asked for are read and decoded.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.description = "Write one array of a .jxc file of many as .npy or .safetensors."
    parser.epilog = EPILOG
    parser.add_argument("input", metavar="IN.jxc", help="the file to read, or -")
    parser.add_argument("name", metavar="NAME", help="of the array, as jaxcomp info lists it")
    parser.add_argument("output", metavar="OUT.npy", help="or OUT.safetensors")
    parser.add_argument("--rows", metavar="A:B", help="x[A:B] along the first axis only")
    common.add_base(parser, "the file that this one is a delta against")
    common.add_max_bytes(parser)
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read, decode, write."""
    suffix = os.path.splitext(arguments.output)[1].lower()
    if suffix not in (".npy", ".safetensors"):
        raise UnsupportedInput(
            f"expected OUT.npy or OUT.safetensors, got {common.shown(arguments.output)}"
        )
    start, stop = _rows(arguments.rows)
    common.check_output(arguments.output, inputs=[arguments.input, arguments.base])
    begun = time.perf_counter()
    with common.judged(arguments.input) as (_, source), common.naming(arguments.input):
        from jaxcomp.io.array_files import write_array
        from jaxcomp.io.tensors import open_tensors

        common.start_jax()
        options = {"base": arguments.base, "max_nbytes": arguments.max_bytes}
        with open_tensors(source, threads=arguments.threads, **options) as file:
            x = file.read(arguments.name, start, stop)
        write_array(arguments.output, arguments.name, x)
    record = {
        "input": common.shown(arguments.input),
        "output": common.shown(arguments.output),
        "name": arguments.name,
        "dtype": x.dtype.name,
        "shape": list(x.shape),
        **common.speed(x.nbytes, time.perf_counter() - begun),
    }
    shape = "x".join(map(str, x.shape)) or "scalar"
    what = f"{ascii(arguments.name)[1:-1]}, {x.dtype} {shape}"
    line = f"{record['input']} -> {record['output']}: {what}"
    common.report(line, record, arguments, arguments.output)
    return 0


def _rows(text):
    if text is None:
        return None, None
    ends = text.split(":")
    try:
        if len(ends) == 2:
            return tuple(int(end) if end else None for end in ends)
    except ValueError:
        pass
    raise UnsupportedInput(f"expected --rows A:B, as in 0:10 or :10, got {text!r:.40}")
