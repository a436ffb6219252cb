"""The jaxcomp command: arguments in, an exit code out.

    0    done
    2    refused: one line on stderr says what was expected, what came, and what to do
    1    a defect of jaxcomp itself, also in one line; JAXCOMP_TRACEBACK=1 shows where
    130  interrupted

Nothing is created at import, and sys.stdout and sys.stderr are looked up at each call, so main can
be called again and again in one process. Commands import what they need when they run: a damaged
file is refused before jax is loaded.
"""

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from jaxcomp import __version__
from jaxcomp.base import JaxcompError

DEFECT, REFUSED, INTERRUPTED = 1, 2, 130

COMMANDS = {
    "compress": "photos, and models without loss, to .jxc files",
    "decompress": "a .jxc file to an image or model file, or a folder",
    "info": "what a .jxc file holds",
    "verify": "whether a .jxc file is whole",
    "extract": "one array of a model, without reading the rest",
    "convert": "a compressed model between GGUF, .jxc and safetensors layouts",
    "eval": "beside JPEG, WebP, JPEG 2000 and AVIF at matched quality",
    "demo": "the bundled photo at three qualities, verified",
    "train": "weights of an image codec, from a folder of photos",
}

EPILOG = """\
examples:
  jaxcomp compress photo.jpg photo.jxc               quality 50
  jaxcomp compress photo.png photo.jxc --bpp 0.5     a size instead of a quality
  jaxcomp compress holiday/ --out small/             every photo of a folder
  jaxcomp decompress photo.jxc photo.png
  jaxcomp info photo.jxc                             what is inside
  jaxcomp compress model.safetensors model.jxc       byte for byte, also .npy and model folders
  jaxcomp decompress model.jxc model.safetensors
  jaxcomp eval photo.png --plot curve.png            beside JPEG, WebP, JPEG 2000 and AVIF
  jaxcomp demo                                       the same on a bundled photo

A file name of - means standard input or output. 'jaxcomp COMMAND --help' says more.
"""


class _Parser(argparse.ArgumentParser):
    """Usage errors in one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        self.exit(REFUSED, f"jaxcomp: error: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; argv defaults to the process's arguments. Returns the exit code."""
    parser = _Parser(
        prog="jaxcomp",
        description="Compress photos, with codecs that run inside XLA, and models without loss.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"jaxcomp {__version__}")
    argv = sys.argv[1:] if argv is None else list(argv)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name in argv:  # only what may be needed: NumPy alone takes a tenth of a second
            importlib.import_module(f"jaxcomp.cli.{name}").add(command)
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as request:  # argparse's way to return
        return request.code if isinstance(request.code, int) else REFUSED
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()  # a closed pipe shows here, not when Python has no one left to tell
        return code
    except JaxcompError as error:
        return _refuse(str(error))
    except BrokenPipeError:  # whoever read our output has gone: nobody to tell
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return REFUSED
    except OSError as error:
        name = f"{error.filename}: " if error.filename is not None else ""
        return _refuse(f"{name}{error.strerror or error}; check the path and its permissions")
    except MemoryError:
        return _refuse("out of memory; use a smaller file, or a lower --max-pixels or --max-bytes")
    except KeyboardInterrupt:
        print("jaxcomp: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("JAXCOMP_TRACEBACK"):
            raise
        _refuse(
            f"internal error, please report it: {type(error).__name__}: {error} "
            "(JAXCOMP_TRACEBACK=1 shows where)"
        )
        return DEFECT


def _refuse(message: str) -> int:
    print(f"jaxcomp: error: {' '.join(message.split())}", file=sys.stderr)
    return REFUSED
