"""What there is to pack: one file of arrays, the members of an .npz archive, or a folder.

Paths are those of archives, with /, and stay inside the folder that they are unpacked to.
"""

import os
import zipfile
import zlib
from typing import Any

from jaxcomp.base import UnsupportedInput
from jaxcomp.io.file_segments import file_segments, npy_segments, raw

SUFFIXES = (".safetensors", ".npy", ".npz")
LONGEST_PATH = 4096


def survey(source: str):
    """(kind, [(path, bytes, segments, how to open it)], empty folders) of what is to be packed."""
    if os.path.isdir(source):
        return "folder", *_folder(source)
    suffix = os.path.splitext(source)[1].lower()
    if suffix not in SUFFIXES:
        raise UnsupportedInput(
            f"expected a file of arrays ({', '.join(SUFFIXES)}) or a folder of them, got {source}"
        )
    if suffix == ".npz":
        return "npz", _members(source), []
    return "file", [_file(source, os.path.basename(source), "array")], []


def _file(path: str, name: str, array: str):
    return name, os.path.getsize(path), file_segments(path, array), lambda: open(path, "rb")


def _folder(source: str):
    found, empty = [], []
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
            path = name if inside == "." else f"{inside}/{name}"
            found.append(_file(os.path.join(top, name), path, os.path.splitext(path)[0]))
    if not any(segment.name for _, _, segments, _ in found for segment in segments):
        raise UnsupportedInput(
            f"{source}: expected a folder with .safetensors or .npy files, found none"
        )
    return found, empty


def _raise(error):
    raise error


def _members(source: str):
    """The .npy files in an .npz file; their sizes are what it says, which reading checks."""
    try:
        archive = zipfile.ZipFile(source)
    except zipfile.BadZipFile as error:
        raise UnsupportedInput(f"expected an .npz file, got no zip archive ({error})") from None
    found, names = [], archive.namelist()
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
                except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
                    raise UnsupportedInput(
                        f"expected {info.filename!r:.80} in an archive that is whole, got {error}"
                    ) from None
        kept = [s for s in segments if s.nbytes or s.name is not None]
        found.append((info.filename, info.file_size, kept, _opener(archive, info)))
    return found


def _opener(archive, info):
    return lambda: archive.open(info)


def is_inside(path: Any) -> bool:
    """Whether a path of an archive stays in the folder that it is unpacked to, on any system."""
    if not isinstance(path, str) or not 0 < len(path) <= LONGEST_PATH:
        return False
    parts = path.split("/")
    return not set(path) & set("\\\0:") and not {"", ".", ".."} & set(parts)
