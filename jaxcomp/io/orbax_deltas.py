"""Which saves of a handler are whole, and where the others find what they are coded against.

Of `every` saves of the same leaves one is whole; those that follow hold what changed since it, and
beside it, under a name of its own, the whole file itself: a hard link, which takes no room as long
as the whole step is kept, and keeps its bytes when that step is removed, by whoever and whenever.
So every step is complete by its folder alone: `max_to_keep` of a manager, deleted steps and copied
folders need no care, and a copy to where there are no links has the bytes of the base in each.

A base is whole itself, so that no chain can break. It is named by its SHA-256 in what is coded
against it, and compared when that is read. Where the last whole file is nowhere to be found (its
step failed, or was removed before another was coded against it), and after every start of a
process, the next save is whole.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import orbax.checkpoint as ocp

from jaxcomp.base import JaxcompError, UnsupportedInput
from jaxcomp.io.tensor_reader import Tensors

BASE = "jaxcomp.base.{}.{}.jxc"  # kind, process


class Bases:
    """What a handler knows of its saves: {leaves: (saves since the whole one, where that lies)}."""

    def __init__(self, every: int):
        if type(every) is not int or every < 1:
            raise UnsupportedInput(f"expected whole_every of at least 1, got {every!r:.40}")
        self._every = every
        self._known: dict[Any, tuple[int, list[str]]] = {}

    @contextlib.contextmanager
    def of(self, folder: Any, file: str, link: str, names: tuple[str, ...]) -> Iterator[Any]:
        """The open base of a save that is about to be written, or None for a whole one.

        folder: of the checkpoint that is not final yet; file, link: the names in it of what is
        written and of its base. When the block ends the save is counted.
        """
        key = link, names
        since, places = self._known.get(key, (self._every, []))
        path = os.path.join(os.fspath(folder), link)
        with contextlib.ExitStack() as stack:
            base = None
            if since + 1 < self._every:
                base = _linked(places, path, stack)
            yield base
        if base is not None:
            self._known[key] = since + 1, [*places, _final(path)]
        elif self._every > 1:
            written = os.path.join(os.fspath(folder), file)
            _check_links(written, path)
            self._known[key] = 0, [_final(written)]


def _linked(places, path, stack) -> Tensors | None:
    """The first of these files that is there and whole, under another name, open."""
    for place in reversed(places):
        try:
            os.link(place, path)
        except OSError:  # gone, or on another disk
            continue
        with contextlib.suppress(JaxcompError, OSError):  # what is saved now must not need it
            base = stack.enter_context(Tensors(path))
            if "base" not in base.header and base.verify():
                return base
        os.unlink(path)
    return None


def _check_links(written, path):
    """UnsupportedInput where the next save could keep no base. Now, not in the midst of a run."""
    try:
        os.link(written, path)
    except OSError as error:
        raise UnsupportedInput(
            f"whole_every needs a file system with hard links, expected one of {written}, got "
            f"{error}; leave whole_every out"
        ) from None
    os.unlink(path)


def _final(path: str) -> str:
    """Where a file of an unfinished checkpoint is going to be."""
    return os.sep.join(part.split(ocp.utils.TMP_DIR_SUFFIX)[0] for part in path.split(os.sep))
