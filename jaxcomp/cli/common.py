"""What the commands share: files and pipes, errors that name their file, reports, the jax start."""

import argparse
import contextlib
import functools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedIOBase
from typing import Any

from jaxcomp.base import JaxcompError, UnsupportedInput

PIPE = "-"
# XLA's older way to write loops for CPUs: our codecs compile in 0.6 of the time, and run as fast.
COMPILE_FAST = "--xla_cpu_use_fusion_emitters=false"
# For one photo a learned codec runs two dozen programs once, and compiles several at a time.
COMPILE_ONCE = (
    f"{COMPILE_FAST} --xla_backend_optimization_level=1 --xla_cpu_parallel_codegen_split_count=1"
)
SMALL = 1 << 22  # pixels; of more, running takes longer than compiling


def add_max_pixels(parser: argparse.ArgumentParser) -> None:
    """The limit that every command checks before it allocates an image."""
    from jaxcomp.codecs.header import MAX_PIXELS

    parser.add_argument(
        "--max-pixels",
        type=positive_int,
        default=MAX_PIXELS,
        metavar="N",
        help="refuse larger images before allocating them (default %(default)s)",
    )


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Weights of one's own, and with them the codec."""
    parser.add_argument(
        "--weights", metavar="FILE.jxw", help="weights that jaxcomp train made, and their codec"
    )


@functools.lru_cache(maxsize=1)
def read_weights(path: str) -> tuple[Any, Any]:
    """(codec, params) of a file of weights, read once for a folder of photos."""
    from jaxcomp.codecs.weights import load_weights

    with naming(path), open(path, "rb") as file:
        return load_weights(file.read())


def add_json(parser: argparse.ArgumentParser) -> None:
    """Machines read one JSON object instead of lines for people."""
    parser.add_argument("--json", action="store_true", help="print one JSON object, for machines")


def positive_int(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return value


def quality(text: str) -> int:
    """An argparse type: a quality of 1 to 100."""
    value = positive_int(text)
    if value > 100:
        raise argparse.ArgumentTypeError(f"expected a quality of 1 to 100, got {text!r}")
    return value


def positive_float(text: str) -> float:
    """An argparse type: a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def shown(path: str) -> str:
    """A file name that any terminal can print."""
    return path.encode("utf-8", "backslashreplace").decode()


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Errors raised inside say which file they are about."""
    try:
        yield
    except JaxcompError as error:
        name = "standard input" if path == PIPE else shown(path)
        raise type(error)(f"{name}: {error}") from None


def binary_stdin() -> BufferedIOBase:
    """Standard input as bytes."""
    return _buffer(sys.stdin, "input")


def binary_stdout() -> BufferedIOBase:
    """Standard output as bytes."""
    return _buffer(sys.stdout, "output")


def _buffer(stream: Any, what: str) -> BufferedIOBase:
    buffer = getattr(stream, "buffer", None)
    if buffer is None:
        raise UnsupportedInput(
            f"expected a standard {what} that carries bytes, got {type(stream).__name__}; "
            "give a file name instead of -"
        )
    return buffer


def check_output(path: str, *, inputs: Iterable[str | None] = ()) -> None:
    """Refuse an output that would destroy its own input, or that has no folder to go to."""
    if path == PIPE:
        return
    for source in inputs:
        if source not in (None, PIPE) and os.path.exists(path) and os.path.samefile(source, path):
            raise UnsupportedInput(f"{shown(path)} is an input itself; choose another output")
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise UnsupportedInput(f"{shown(path)}: its folder does not exist; create {shown(folder)}")


def write(path: str, data: bytes) -> None:
    """To a file, atomically, or to standard output."""
    from jaxcomp.coding.container import write_atomic

    if path == PIPE:
        stream = binary_stdout()
        stream.write(data)
        stream.flush()
    else:
        write_atomic(path, data)


def report(line: str, record: dict[str, Any], arguments: argparse.Namespace, output: str) -> None:
    """One line for people or one JSON object for machines, out of the way of piped bytes."""
    print(
        json.dumps(record) if arguments.json else line,
        file=sys.stderr if output == PIPE else sys.stdout,
    )


def note(path: str, text: str) -> None:
    """Something that was done to a file, and that its owner should know."""
    print(f"jaxcomp: note: {shown(path)}: {text}", file=sys.stderr)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows in aligned columns, the first to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (heads, *rows)
    )


@contextlib.contextmanager
def progress(total: int, what: str) -> Iterator[Any]:
    """A bar on stderr where that is a terminal; yields advance(label), called after each step."""
    if not sys.stderr.isatty():
        yield lambda label: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda label: bar.update(task, advance=1, description=label)


@contextlib.contextmanager
def progress_bytes(total: int, what: str) -> Iterator[Any]:
    """A bar with MB/s on stderr where that is a terminal; yields advance(bytes)."""
    if not sys.stderr.isatty():
        yield lambda nbytes: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        *(TextColumn("{task.description}"), BarColumn(), DownloadColumn()),
        *(TransferSpeedColumn(), TimeRemainingColumn()),
    )
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda nbytes: bar.update(task, advance=nbytes)


class _Again(BufferedIOBase):
    """A stream of which the first bytes were read, from its beginning."""

    def __init__(self, head: bytes, stream: BufferedIOBase):
        self._head, self._stream = head, stream

    def read(self, size: int | None = -1) -> bytes:
        head, self._head = self._head, b""
        return head + self._stream.read(size if size is None or size < 0 else size - len(head))


@contextlib.contextmanager
def judged(path: str) -> Iterator[tuple[int, Any]]:
    """(version of a .jxc file, the file): its path; of standard input a copy that can be sought.

    Raises CorruptStream for other files, before jax is loaded.
    """
    from jaxcomp.coding.chunked import Reader
    from jaxcomp.coding.framing import version_of

    if path != PIPE:
        with naming(path), open(path, "rb") as file:
            version = version_of(file.read(5))
            if version == 2:
                Reader(file)
        yield version, path
        return
    stream = binary_stdin()
    head = stream.read(5)
    with naming(path):
        version = version_of(head)
    if version != 2:
        yield version, _Again(head, stream)
        return
    with tempfile.TemporaryFile() as file:
        file.write(head)
        shutil.copyfileobj(stream, file, 1 << 20)
        with naming(path):
            Reader(file)
        yield version, file


def add_max_bytes(parser: argparse.ArgumentParser) -> None:
    """The limit that arrays are held to before they are allocated."""
    parser.add_argument(
        "--max-bytes",
        type=positive_int,
        metavar="N",
        help="refuse files that hold more (default 4 GiB, or 16 times the file where that is more)",
    )


def add_base(parser: argparse.ArgumentParser, what: str) -> None:
    """The file that a delta is against, and threads."""
    parser.add_argument("--base", metavar="PREVIOUS.jxc", help=what)
    parser.add_argument(
        "--threads", type=positive_int, metavar="N", help="default: one for each core, at least 2"
    )


def refuse_options(arguments: argparse.Namespace, names: Sequence[str], kind: str) -> None:
    """UnsupportedInput for options that are for another kind of file than was given."""
    for name in names:
        if getattr(arguments, name, None) not in (None, False):
            raise UnsupportedInput(f"--{name.replace('_', '-')} is for {kind}, this is none")


def speed(nbytes: int, seconds: float) -> dict[str, float]:
    """What records of work on many bytes end with."""
    rate = nbytes / 1e6 / max(seconds, 1e-9)
    return {"seconds": round(seconds, 3), "megabytes_per_second": round(rate, 1)}


def flags_of_one(codec: str, pixels: int) -> str:
    """The flags of start_jax for one photo."""
    return COMPILE_ONCE if codec != "dct" and pixels <= SMALL else COMPILE_FAST


def start_jax(*, flags: str = COMPILE_FAST) -> None:
    """Let compiled programs outlive the process, in the user's cache folder; flags are XLA's.

    Only where nobody has chosen a folder already, and only if ours can be written: a compilation
    cache is a convenience, never a reason to fail.
    """
    import jax

    chosen = os.environ.get("XLA_FLAGS", "")
    given = [flag for flag in flags.split() if flag.split("=")[0] not in chosen]
    # XLA ends a process for a flag that it does not know, as that of jax 0.12 does not this one.
    if jax.__version_info__ >= (0, 11):
        given = [flag for flag in given if flag != COMPILE_FAST]
    if given:
        os.environ["XLA_FLAGS"] = " ".join([*chosen.split(), *given])
    if jax.config.jax_compilation_cache_dir is not None:
        return
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(home, "jaxcomp", "xla")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", folder)
        # Keep everything: each program is small, and compiling all of them is what takes seconds.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
