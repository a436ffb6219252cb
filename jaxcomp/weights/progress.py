"""A bar on stderr, where that is a terminal and the work is long."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

QUIET_SECONDS = 2.0  # what is done by then needs no bar


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[Any], None]]:
    """Yields advance(text), to be called as each of `total` parts begins; str(text) is shown."""
    start = time.monotonic()
    bars: list[Any] = []
    done = 0

    def advance(text):
        nonlocal done
        if not bars and sys.stderr.isatty() and time.monotonic() - start > QUIET_SECONDS:
            from rich.console import Console
            from rich.progress import Progress

            bars.append(Progress(console=Console(file=sys.stderr), transient=True))
            bars[0].add_task("", total=total)
            bars[0].start()
        for bar in bars:
            bar.update(bar.task_ids[0], completed=done, description=str(text))
        done += 1

    try:
        yield advance
    finally:
        for bar in bars:
            bar.stop()
