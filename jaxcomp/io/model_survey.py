"""What there is to pack: one file of arrays, the members of an .npz archive, or a folder.

Paths are those of archives, with /, and stay inside the folder that they are unpacked to.

A file among others that is named as one of arrays and is none that we read (Python objects, which
only a pickle holds, a pointer of Git LFS, a truncated download) is kept as bytes, and named.
"""

import os
import zipfile
import zlib
from collections.abc import Callable
from io import BufferedIOBase
from typing import Any, NamedTuple

from jaxcomp.base import UnsupportedInput
from jaxcomp.io.file_segments import Segment, file_segments, npy_segments, raw

SUFFIXES = (".safetensors", ".npy", ".npz")
LONGEST_PATH = 4096


class File(NamedTuple):
    """One file: its path in the folder, bytes, what they are, and how it is opened."""

    path: str
    nbytes: int
    segments: list[Segment]
    opening: Callable[[], BufferedIOBase]


class Survey(NamedTuple):
    """What is to be packed, its empty folders, and {path: why} of files whose arrays are bytes."""

    kind: str
    files: list[File]
    folders: list[str]
    unread: dict[str, str]


def survey(source: str) -> Survey:
    """What is to be packed of a file or folder. UnsupportedInput where it has no array."""
    if os.path.isdir(source):
        return _folder(source)
    suffix = os.path.splitext(source)[1].lower()
    if suffix not in SUFFIXES:
        raise UnsupportedInput(
            f"expected a file of arrays ({', '.join(SUFFIXES)}) or a folder of them, got {source}"
        )
    if suffix == ".npz":
        return _archive(source)
    segments = file_segments(source)
    return Survey("file", [_file(source, os.path.basename(source), segments)], [], {})


def _file(path: str, name: str, segments: list[Segment]) -> File:
    return File(name, os.path.getsize(path), segments, lambda: open(path, "rb"))


def _folder(source: str) -> Survey:
    found, empty, unread = [], [], {}
    for top, folders, names in os.walk(source, onerror=_raise):
        folders.sort()
        inside = os.path.relpath(top, source).replace(os.sep, "/")
        for name in [*folders, *names]:
            path = os.path.join(top, name)
            folder = os.path.isdir(path) and not os.path.islink(path)
            if not is_inside(name) or not (folder or os.path.isfile(path)):
                raise UnsupportedInput(
                    f"{path}: expected files and folders, of names without \\ and :, got something "
                    "else (a link to a folder, a pipe?); leave it out"
                )
        if not folders and not names and inside != ".":
            empty.append(inside)
        for name in sorted(names):
            path, file = name if inside == "." else f"{inside}/{name}", os.path.join(top, name)
            try:
                segments = file_segments(file, os.path.splitext(path)[0])
            except UnsupportedInput as error:
                unread[path] = str(error)
                segments = [raw(n) for n in [os.path.getsize(file)] if n]
            found.append(_file(file, path, segments))
    if not any(segment.name for file in found for segment in file.segments):
        why = next((f"; {path}: {text}" for path, text in unread.items()), "")
        raise UnsupportedInput(
            f"{source}: expected a folder with .safetensors or .npy files, found none{why}"
        )
    return Survey("folder", found, empty, unread)


def _raise(error):
    raise error


def _archive(source: str) -> Survey:
    """The .npy files in an .npz file; their sizes are what it says, which reading checks."""
    try:
        archive = zipfile.ZipFile(source)
    except zipfile.BadZipFile as error:
        raise UnsupportedInput(f"expected an .npz file, got no zip archive ({error})") from None
    found, unread, names = [], {}, archive.namelist()
    if len(set(names)) != len(names):
        raise UnsupportedInput(
            "expected a name of its own for each array in an .npz, got one twice"
        )
    for info in archive.infolist():
        if not is_inside(info.filename) or info.flag_bits & 1:
            raise UnsupportedInput(f"expected plain .npy files in it, got {info.filename!r:.80}")
        name = os.path.splitext(info.filename)[0]
        segments = [raw(info.file_size)]
        if info.filename.endswith(".npy"):
            with archive.open(info) as stream:
                try:
                    segments = npy_segments(stream, info.file_size, name)
                except UnsupportedInput as error:
                    unread[info.filename] = str(error)
                except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
                    raise UnsupportedInput(
                        f"expected {info.filename!r:.80} in an archive that is whole, got {error}"
                    ) from None
        kept = [s for s in segments if s.nbytes or s.name is not None]
        found.append(File(info.filename, info.file_size, kept, _opener(archive, info)))
    if len(unread) == len(found) > 0:
        raise UnsupportedInput(next(iter(unread.values())))
    return Survey("npz", found, [], unread)


def _opener(archive, info):
    return lambda: archive.open(info)


def is_inside(path: Any) -> bool:
    """Whether a path of an archive stays in the folder that it is unpacked to, on any system."""
    if not isinstance(path, str) or not 0 < len(path) <= LONGEST_PATH:
        return False
    parts = path.split("/")
    return not set(path) & set("\\\0:") and not {"", ".", ".."} & set(parts)
