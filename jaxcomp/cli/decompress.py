"""jaxcomp decompress: a .jxc file to an image, or to the model file or folder that it was."""

import argparse
import os
import time

from jaxcomp.base import UnsupportedInput
from jaxcomp.cli import common
from jaxcomp.cli.compress_model import SUFFIXES

EPILOG = """\
examples:
  jaxcomp decompress photo.jxc photo.png
  jaxcomp decompress photo.jxc photo.tiff              also .webp (lossless), .bmp, .ppm
  jaxcomp decompress photo.jxc - | display             PNG on standard output
  jaxcomp decompress model.jxc model.safetensors       or .npy, .npz: whatever went in
  jaxcomp decompress model.jxc folder/                 a new folder, where a folder went in
  jaxcomp decompress state.jxc state.safetensors       what jaxcomp.io.save_tensors wrote, by name

A model comes back byte for byte: what was written has the SHA-256 of the original, or nothing is.
The file is checked before anything is loaded: a damaged one is refused in a fraction of a second,
and OUT stays as it was.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.description = (
        "Decompress a .jxc file: a photo to PNG or another lossless format, a model to its files."
    )
    parser.epilog = EPILOG
    parser.add_argument("input", metavar="IN.jxc", help="the file to read, or -")
    parser.add_argument(
        "output", metavar="OUT", help="the image, model file or folder to write, or -"
    )
    common.add_weights(parser)
    common.add_max_pixels(parser)
    common.add_base(parser, "models: the file that this one is a delta against")
    common.add_max_bytes(parser)
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """A photo or a model, as the first bytes say."""
    if not os.path.isdir(arguments.output):
        common.check_output(arguments.output, inputs=[arguments.input, arguments.base])
    with common.judged(arguments.input) as (version, source):
        if version == 2:
            common.refuse_options(arguments, ["weights"], "photos")
            return _model(arguments, source)
        common.refuse_options(arguments, ["base", "max_bytes", "threads"], "models")
        return _photo(arguments, source)


def _model(arguments, source):
    """Files as they were."""
    from jaxcomp.io.error_bound import bounds_of
    from jaxcomp.io.model_files import decompress_file
    from jaxcomp.io.tensors import open_tensors

    piped = arguments.output == common.PIPE
    target = common.binary_stdout() if piped else arguments.output
    start = time.perf_counter()
    common.start_jax()
    with common.naming(arguments.input), open_tensors(source) as file:
        total, bounded = sum(row.nbytes for row in file.rows), len(bounds_of(file))
        held = _held(file)
    with common.naming(arguments.input), common.progress_bytes(total, "decompressing") as advance:
        done = decompress_file(
            source,
            target,
            base=arguments.base,
            max_nbytes=arguments.max_bytes,
            threads=arguments.threads,
            progress=advance,
        )
    if piped:
        target.flush()
    suffix = os.path.splitext(arguments.output.rstrip(os.sep))[1].lower()
    if suffix in SUFFIXES and suffix != held:
        common.note(arguments.output, f"it is {held or 'a folder'}, which is what went in")
    if bounded:
        text = f"{bounded} arrays are within a bound of what they were, not equal; see jaxcomp info"
        common.note(arguments.input, text)
    record = {
        "input": common.shown(arguments.input),
        "output": common.shown(arguments.output),
        "bytes": done.nbytes,
        "original_bytes": done.original_nbytes,
        "arrays": done.arrays,
        "files": done.files,
        **common.speed(done.original_nbytes, time.perf_counter() - start),
    }
    line = (
        f"{record['input']} -> {record['output']}: {done.arrays} arrays, {done.files} files, "
        f"{done.original_nbytes} bytes, {record['megabytes_per_second']:.0f} MB/s"
    )
    common.report(line, record, arguments, arguments.output)
    return 0


def _held(file):
    """The suffix of the file that went in; none of a folder."""
    from jaxcomp.io.model_files import file_entries

    kind = file.index.get("kind")
    if kind != "file":
        return {"tree": ".safetensors", "npz": ".npz"}.get(kind, "")
    return os.path.splitext(file_entries(file)[0].path)[1].lower()


def _photo(arguments, source):
    """Judge the container, then load jax, decode, write."""
    from jaxcomp.codecs.header import icc_profile, image_shape
    from jaxcomp.coding.container import read

    with common.naming(arguments.input):
        container = read(source)
        if container.codec == "tree":
            raise UnsupportedInput(
                "it holds compressed weights: jaxcomp convert writes them for other tools, "
                "jaxcomp.io.load_weights reads them"
            )
        height, width = image_shape(container, max_pixels=arguments.max_pixels)[:2]
        icc = icc_profile(container)

    from jaxcomp.codecs.files import check_model, decode
    from jaxcomp.io.photo import WITH_PROFILE, check_suffix, image_bytes

    suffix = os.path.splitext(arguments.output)[1] if arguments.output != common.PIPE else ".png"
    kind = check_suffix(suffix)
    with common.naming(arguments.input):
        if arguments.weights is None:
            weights = None
            check_model(container)
        common.start_jax(flags=common.flags_of_one(container.codec, height * width))
        if arguments.weights is not None:
            weights = common.read_weights(arguments.weights)
        pixels = decode(container, weights=weights, max_pixels=arguments.max_pixels)
    common.write(arguments.output, image_bytes(pixels, suffix, icc=icc))
    if icc and kind not in WITH_PROFILE:
        common.note(arguments.output, f"{kind} cannot carry the ICC profile; it was left out")
    record = {
        "input": common.shown(arguments.input),
        "output": common.shown(arguments.output),
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "channels": pixels.shape[2] if pixels.ndim == 3 else 1,
    }
    line = f"{record['input']} -> {record['output']}: {record['width']} x {record['height']}"
    common.report(line, record, arguments, arguments.output)
    return 0
