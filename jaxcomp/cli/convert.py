"""jaxcomp convert: a compressed model from one tool's file to another's."""

import argparse
import os

from jaxcomp.base import UnsupportedInput
from jaxcomp.cli import common

# As io/interchange.py has them, which would load jax.
LAYOUTS = ("plain", "jaxcomp", "compressed-tensors", "gptq", "awq")
DENSE = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}

EPILOG = """\
examples:
  jaxcomp convert model.gguf model.jxc                       the same codes, in fewer bytes
  jaxcomp convert model.jxc model.gguf                       and back
  jaxcomp convert gptq-folder/ out/ --layout compressed-tensors
  jaxcomp convert model.gguf model.safetensors --layout gptq --round uint4-g32
  jaxcomp convert model.gguf model.safetensors --dense bf16

IN is .gguf, .jxc, .safetensors, or a folder of config.json and .safetensors files. The suffix of
OUT says what is written; without one it is a folder. Safetensors have layouts; by default that of
IN where it has one, else compressed-tensors for compressed weights and plain for arrays.

Weights go over as the same integers and scales where OUT can hold them, and the report says how
many. Where it cannot, the command is refused, or they are rounded again as --round says, or become
arrays by --dense. Names stay, and so do GGUF's metadata (tokenizer, hyperparameters) in .jxc files
and back: a runtime for another format may expect other names. Other files of a folder are not
copied.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.description = "Convert a compressed model between GGUF, .jxc and safetensors layouts."
    parser.epilog = EPILOG
    parser.add_argument("input", metavar="IN", help="a file, or a folder of safetensors")
    parser.add_argument("output", metavar="OUT", help=".gguf, .jxc, .safetensors, or a folder")
    parser.add_argument("--layout", choices=LAYOUTS, help="of safetensors")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--round",
        metavar="KIND",
        help="round what OUT cannot hold: q4_k for .gguf, int4-g32 for others",
    )
    how.add_argument("--dense", choices=sorted(DENSE), help="make compressed weights arrays")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read, fit, write, report."""
    suffix = os.path.splitext(arguments.output.rstrip("/"))[1].lower()
    suffix = "" if os.path.isdir(arguments.output) else suffix
    if suffix not in ("", ".gguf", ".jxc", ".safetensors"):
        raise UnsupportedInput(
            f"expected OUT to be .gguf, .jxc, .safetensors or a folder, got {suffix!r}; rename it"
        )
    if arguments.layout and suffix in (".gguf", ".jxc"):
        raise UnsupportedInput(
            f"expected --layout for safetensors only, got it for {suffix}; leave it out"
        )
    common.check_output(arguments.output.rstrip("/"), inputs=[arguments.input])

    from jaxcomp.io import interchange

    common.start_jax()
    with common.naming(arguments.input):
        model = interchange.read_model(arguments.input)
    layout = suffix[1:] if suffix in (".gguf", ".jxc") else arguments.layout or _default(model)
    dense = DENSE.get(arguments.dense)
    if dense and not arguments.layout and suffix not in (".gguf", ".jxc"):
        layout = "plain"
    weights, kept = interchange.fit(model, layout, rounding=arguments.round, dense=dense)
    size = interchange.write_model(arguments.output.rstrip("/"), weights, layout, model)
    before = _size(arguments.input)
    if model.metadata and layout not in ("gguf", "jxc"):
        common.note(arguments.output, f"{len(model.metadata)} metadata of GGUF are not kept")
    record = {
        "input": common.shown(arguments.input),
        "output": common.shown(arguments.output),
        "from": model.layout,
        "to": layout,
        "bytes": size,
        "original_bytes": before,
        **kept._asdict(),
    }
    line = (
        f"{record['input']} ({model.layout}) -> {record['output']} ({layout}): "
        f"{kept.exact} weights with the same codes, {kept.rounded} rounded again, "
        f"{kept.dense} made dense, {kept.arrays} arrays as they were; {before} -> {size} bytes"
    )
    common.report(line, record, arguments, arguments.output)
    return 0


def _default(model):
    """The layout of safetensors to write."""
    if model.layout in LAYOUTS:
        return model.layout
    compressed = any(hasattr(x, "dense") for x in model.weights.values())
    return "compressed-tensors" if compressed else "plain"


def _size(path):
    if not os.path.isdir(path):
        return os.path.getsize(path)
    names = [name for name in os.listdir(path) if name.endswith((".safetensors", ".json"))]
    return sum(os.path.getsize(os.path.join(path, name)) for name in names)
