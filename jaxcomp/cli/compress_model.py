"""What jaxcomp compress does with files of arrays, and folders of them."""

import argparse
import os
import time

from jaxcomp.base import UnsupportedInput
from jaxcomp.cli import common

SUFFIXES = (".safetensors", ".npy", ".npz")
METADATA = "_METADATA"  # in every checkpoint of Orbax
PHOTO_OPTIONS = ("quality", "bpp", "weights", "refine", "background", "out", "codec")


def is_model(arguments: argparse.Namespace) -> bool:
    """Whether IN is a file of arrays, or a folder that is to become one file."""
    if arguments.photo == common.PIPE:
        return False
    if os.path.isdir(arguments.photo):
        return arguments.out is None
    return _is_array_file(arguments.photo)


def run(arguments: argparse.Namespace) -> int:
    """One file or folder to one .jxc file, without loss."""
    from jaxcomp.io.model_files import compress_file

    source, output = arguments.photo, arguments.output
    common.refuse_options(arguments, PHOTO_OPTIONS, "photos")
    paths = _paths(source) if os.path.isdir(source) else []
    if os.path.isdir(source) and not any(_is_array_file(x) or METADATA in x for x in paths):
        raise UnsupportedInput(
            f"{common.shown(source)} is a folder without {', '.join(SUFFIXES[:2])}, and no "
            "checkpoint of Orbax; for one of photos say where the .jxc files go with --out DIR"
        )
    common.check_output(output, inputs=[source])
    inside = os.path.realpath(output).startswith(os.path.realpath(source) + os.sep)
    if output != common.PIPE and inside:
        raise UnsupportedInput(
            f"{common.shown(output)} is in the folder that is compressed; write it elsewhere"
        )
    start = time.perf_counter()
    common.start_jax()
    target = common.binary_stdout() if output == common.PIPE else output
    with common.naming(source), common.progress_bytes(_size(source), "compressing") as advance:
        options = {"base": arguments.base, "threads": arguments.threads, "progress": advance}
        done = compress_file(source, target, **options)
    if not done.files:
        common.note(source, "of Orbax: its arrays are kept, by path; they become .safetensors")
    for path, why in done.unread.items():
        common.note(f"{source}/{path}", f"kept as bytes: {why}")
    stored = done.nbytes >= done.original_nbytes
    if stored:
        common.note(source, "it does not shrink, and is stored as it is")
    record = {
        "input": common.shown(source),
        "output": common.shown(output),
        "bytes": done.nbytes,
        "original_bytes": done.original_nbytes,
        "ratio": round(done.nbytes / max(done.original_nbytes, 1), 6),
        "arrays": done.arrays,
        "files": done.files,
        "stored": stored,
        "kept_as_bytes": done.unread,
        **common.speed(done.original_nbytes, time.perf_counter() - start),
    }
    kept = f", {len(done.unread)} files as bytes" if done.unread else ""
    line = (
        f"{record['input']} -> {record['output']}: {done.arrays} arrays{kept}, "
        f"{done.original_nbytes} -> "
        f"{done.nbytes} bytes, {record['ratio']:.3f} of them, "
        f"{record['megabytes_per_second']:.0f} MB/s"
    )
    common.report(line, record, arguments, output)
    return 0


def _is_array_file(path):
    return os.path.splitext(path)[1].lower() in SUFFIXES


def _paths(folder):
    return [os.path.join(top, name) for top, _, names in os.walk(folder) for name in names]


def _size(source):
    paths = _paths(source) if os.path.isdir(source) else [source]
    return sum(os.path.getsize(path) for path in paths if os.path.isfile(path))
