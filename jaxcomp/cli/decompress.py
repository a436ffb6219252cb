"""jaxcomp decompress: a .jxc file to an image file."""

import argparse
import os

from jaxcomp.cli import common

EPILOG = """\
examples:
  jaxcomp decompress photo.jxc photo.png
  jaxcomp decompress photo.jxc photo.tiff              also .webp (lossless), .bmp, .ppm
  jaxcomp decompress photo.jxc - | display             PNG on standard output

The file is checked before anything is loaded: a damaged one is refused in a fraction of a second,
and OUT stays as it was.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.description = "Decompress a .jxc file to PNG or another lossless image format."
    parser.epilog = EPILOG
    parser.add_argument("input", metavar="IN.jxc", help="the file to read, or -")
    parser.add_argument("output", metavar="OUT.png", help="the image to write, or - for PNG")
    common.add_weights(parser)
    common.add_max_pixels(parser)
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Judge the container, then load jax, decode, write."""
    from jaxcomp.codecs.header import icc_profile, image_shape
    from jaxcomp.coding.container import read

    common.check_output(arguments.output, inputs=[arguments.input])
    with common.naming(arguments.input):
        piped = arguments.input == common.PIPE
        container = read(common.binary_stdin() if piped else arguments.input)
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
