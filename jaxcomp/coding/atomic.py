"""Files and folders that are replaced at once or not at all. The standard library only."""

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from io import BufferedIOBase

from jaxcomp.base import UnsupportedInput


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write data to path so that a reader, or a failure half way, sees the old file or the new one.

    As `replacing`, in one piece.
    """
    with replacing(path) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BufferedIOBase]:
    """A file to write, which becomes `path` when the block ends, and vanishes where it fails.

    The bytes go to a temporary file in the same folder, which then replaces the target: whoever is
    killed at any point leaves the old file as it was. Links are followed, and what is no ordinary
    file (a pipe, /dev/null) is written directly.
    """
    target = os.path.realpath(path)
    mode = None
    if os.path.exists(target):
        mode = os.stat(target).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(21, "expected a file to write, got a folder", str(path))
        if not stat.S_ISREG(mode):
            with open(target, "wb") as file:
                yield file
            return
    temporary = f"{target}.{os.urandom(4).hex()}.tmp"
    try:
        # 0o666 less the user's umask, as open() would create it.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(temporary, stat.S_IMODE(mode))
        os.replace(temporary, target)
    except BaseException as error:
        if os.path.exists(temporary):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename == temporary:
            error.filename = str(path)  # name what the user asked for
        raise


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[str]:
    """The name of an empty folder to fill, which becomes `path` when the block ends.

    There is no `path` before, or it is an empty folder, else UnsupportedInput: nothing of the
    user's is merged with or removed. Where the block fails the folder is removed; who is killed
    leaves no `path`.
    """
    target = os.path.realpath(path)
    if os.path.exists(target) and (not os.path.isdir(target) or os.listdir(target)):
        raise UnsupportedInput(
            f"expected a new or empty folder, got {path} with files; name another"
        )
    temporary = f"{target}.{os.urandom(4).hex()}.tmp"
    try:
        os.mkdir(temporary)
        yield temporary
        os.replace(temporary, target)  # an empty folder gives way to it
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.filename == temporary:
            error.filename = str(path)
        raise
