"""Files and folders that are replaced at once or not at all. The standard library only.

Bytes go to `<target>.<host>-<random>.tmp` beside the target, which takes its place when they are on
the disk; then the folder is written out too, so that the new name outlives a power cut. Whoever is
killed half way leaves that file behind, and the next to write the same target removes it: who
writes holds a lock on it (flock), which the system opens when a process ends, however it ends. What
another host left is judged by its age too, since locks do not cross every network file system. A
system without such locks (Windows) keeps what is left behind.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from io import BufferedIOBase

from jaxcomp.base import UnsupportedInput

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# No save writes nothing for a day; clocks of two hosts differ by less.
ABANDONED_SECONDS = 24 * 3600.0
# What a file system says that has no such thing for folders, or no locks.
UNABLE = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.ENOLCK}
UNABLE |= {errno.ENOSYS, errno.EISDIR}


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
    with _temporary(path, target, _new_file) as (temporary, lock):
        with os.fdopen(os.dup(lock), "wb") as file:
            yield file
            file.flush()
            if mode is not None:
                os.chmod(temporary, stat.S_IMODE(mode))
            os.fsync(file.fileno())


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[str]:
    """The name of an empty folder to fill, which becomes `path` when the block ends.

    There is no `path` before, or it is an empty folder, else UnsupportedInput: nothing of the
    user's is merged with or removed. Where the block fails the folder is removed; who is killed
    leaves no `path`. Whoever writes files into it sees to it that they are on the disk.
    """
    target = os.path.realpath(path)
    if os.path.exists(target) and (not os.path.isdir(target) or os.listdir(target)):
        raise UnsupportedInput(
            f"expected a new or empty folder, got {path} with files; name another"
        )
    with _temporary(path, target, _new_folder) as (temporary, _):
        yield temporary
        for folder, _, _ in os.walk(temporary, topdown=False):
            _write_out(folder)


@contextlib.contextmanager
def _temporary(path, target, create):
    """(name, descriptor that holds the lock) of what becomes `target` when the block ends."""
    _remove_abandoned(target)
    temporary = lock = None
    try:
        while lock is None:  # who tidies up may come between a new file and its lock: once more
            temporary = f"{target}.{_host()}-{os.urandom(4).hex()}.tmp"
            lock = _held(temporary, create(temporary))
        yield temporary, lock
        if fcntl is None and lock is not None:
            lock = os.close(lock)  # Windows renames nothing that is open
        os.replace(temporary, target)  # an empty folder gives way to a new one
        _write_out(os.path.dirname(target))
    except BaseException as error:
        if os.path.isdir(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
        elif os.path.exists(temporary):
            if fcntl is None and lock is not None:
                lock = os.close(lock)
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename == temporary:
            error.filename = str(path)  # name what the user asked for
        raise
    finally:
        if lock is not None:
            os.close(lock)  # after the rename: until then nobody takes it for abandoned


def _new_file(name: str) -> int:
    # 0o666 less the user's umask, as open() would create it.
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)


def _new_folder(name: str) -> int:
    os.mkdir(name)
    # A folder has no descriptor on Windows; the null device stands for one.
    return os.open(name if fcntl else os.devnull, os.O_RDONLY)


def _held(name: str, descriptor: int) -> int | None:
    """The descriptor, locked; None, and closed, where the name is gone meanwhile."""
    if fcntl is not None:
        with _able():
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not _is_named(name, descriptor):
            return os.close(descriptor)
    return descriptor


def _is_named(name, descriptor):
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(name, follow_symlinks=False), os.fstat(descriptor))
    return False


def _remove_abandoned(target: str) -> None:
    """Remove what killed writers of this target left. One that is alive holds its lock."""
    folder, name = os.path.split(target)
    temporary = re.compile(re.escape(name) + r"\.([0-9a-f]{8})-[0-9a-f]{8}\.tmp")
    if fcntl is None or not os.path.isdir(folder):
        return
    with os.scandir(folder) as entries:
        found = [(x.path, match[1]) for x in entries if (match := temporary.fullmatch(x.name))]
    for path, host in found:
        with contextlib.suppress(OSError):  # in use, gone, or another user's: it stays
            # NFS locks only what is open to write.
            mode = os.O_RDONLY if os.path.isdir(path) else os.O_RDWR
            descriptor = os.open(path, mode | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                old = time.time() - _last_change(path) > ABANDONED_SECONDS
                if (old or host == _host()) and _is_named(path, descriptor):
                    if os.path.isdir(path):
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        os.unlink(path)
            finally:
                os.close(descriptor)


def _last_change(path: str) -> float:
    """Of a file, or of anything in a folder, in seconds."""
    inside = [os.path.join(top, x) for top, _, names in os.walk(path) for x in names]
    return max(os.lstat(x).st_mtime for x in [path, *inside])


def _host() -> str:
    """Which machine writes."""
    return hashlib.blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()


def _write_out(folder: str) -> None:
    """The names in a folder, to the disk, where the system does that."""
    if os.name == "nt":
        return
    with _able():
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _able():
    """Pass over what this file system cannot do; errors of the disk are raised."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNABLE:
            raise
