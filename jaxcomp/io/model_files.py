"""Files of models <-> one .jxc file: .safetensors, .npy, .npz, folders as Hugging Face has them.

    compress_file("model.safetensors", "model.jxc")
    decompress_file("model.jxc", "model.safetensors")      # the same bytes, SHA-256 compared

A file comes back byte for byte: its header and whatever else is no array are kept as bytes. Of a
folder all files are kept, those that are no .safetensors or .npy file, or none that we read, as
bytes. Of an .npz, which is a zip archive that may be packed, the .npy files in it come back byte
for byte, in an archive that is not packed; nothing is ever unpickled. open_tensors reads the
arrays of all of these.

Of an Orbax checkpoint the arrays are kept, by path (orbax_arrays.py); they become .safetensors.
"""

import contextlib
import hashlib
import itertools
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.coding.atomic import new_folder, replacing
from jaxcomp.io.array_files import write_safetensors
from jaxcomp.io.file_segments import Segment
from jaxcomp.io.model_survey import is_inside, survey
from jaxcomp.io.orbax_arrays import is_orbax, orbax_arrays
from jaxcomp.io.tensor_reader import Tensors, opened
from jaxcomp.io.tensor_rows import Row, check_room
from jaxcomp.io.tensor_writer import TensorWriter
from jaxcomp.io.tensors import save_tensors

Progress = Callable[[int], None] | None


# What a damaged or unusual zip archive raises.
UNREADABLE = zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError


class Report(NamedTuple):
    """What came of it: bytes of the original files and of the .jxc file, arrays, and files.

    unread: {path: why} of files of a folder or .npz that are named as arrays and kept as bytes.
    """

    original_nbytes: int
    nbytes: int
    arrays: int
    files: int
    unread: dict[str, str]


def compress_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | BufferedIOBase,
    *,
    base: Any = None,
    threads: int | None = None,
    progress: Progress = None,
) -> Report:
    """Write the .jxc file of a model file or folder, without loss. The target is replaced at once.

    base: a previous .jxc file of such a model, against which its arrays are coded where smaller.

    Raises UnsupportedInput for what is none of these, and for files that change meanwhile. In a
    folder or an .npz one file that is none is kept as bytes, and the report says so.
    """
    source = os.fspath(source)
    if os.path.isdir(source) and is_orbax(source):
        return _compress_orbax(source, target, base, threads, progress)
    kind, files, folders, unread = survey(source)
    with contextlib.ExitStack() as stack:
        before = opened(base, stack)
        if before is not None:
            before.check_target(target)
        named = isinstance(target, (str, os.PathLike))
        file = stack.enter_context(replacing(target)) if named else target
        options = {"base": before, "threads": threads, "progress": progress}
        writer = stack.enter_context(TensorWriter(file, **options))
        entries, names = [], set()
        for name, nbytes, segments, opening in files:
            try:
                with opening() as stream:
                    entries.append(_add_file(writer, name, nbytes, segments, stream, names))
            except UNREADABLE as error:
                raise UnsupportedInput(
                    f"expected {name} in an archive that is whole, got {error}; make it again"
                ) from None
        index = {"kind": kind, "files": entries}
        nbytes = writer.finish(index | ({"folders": folders} if folders else {}))
    return Report(sum(entry[1] for entry in entries), nbytes, len(names), len(entries), unread)


def _compress_orbax(source, target, base, threads, progress):
    """The arrays of a checkpoint, by path; its files are what Orbax made of them."""
    total = count = 0

    def counted():
        nonlocal total, count
        for name, read in orbax_arrays(source):
            x = read()
            total, count = total + x.nbytes, count + 1
            yield name, x

    options = {"base": base, "threads": threads, "progress": progress}
    nbytes = save_tensors(target, counted(), **options)
    return Report(total, nbytes, count, 0, {})


def decompress_file(
    source: str | os.PathLike[str] | BufferedIOBase,
    target: str | os.PathLike[str] | BufferedIOBase,
    *,
    base: Any = None,
    max_nbytes: int | None = None,
    threads: int | None = None,
    progress: Progress = None,
) -> Report:
    """Write the file or folder that compress_file read. A folder must be new, or empty.

    Of a file that save_tensors wrote, the arrays are written as .safetensors, by their names.

    Nothing is left at the target unless all of it has the SHA-256 of the original. Options as for
    io.load_tensors; raises CorruptStream as it does.
    """
    with contextlib.ExitStack() as stack:
        tensors = Tensors(source, base=base, max_nbytes=max_nbytes, threads=threads)
        stack.enter_context(tensors)
        if tensors.index.get("kind") == "tree":
            return _tree_out(stack, tensors, target, progress)
        files = file_entries(tensors)
        total = sum(entry.nbytes for entry in files)
        check_room(total, tensors.max_nbytes)
        kind = tensors.index["kind"]
        if kind == "folder":
            writing = _into_folder(stack, target, files, tensors.index.get("folders", []))
        else:
            named = isinstance(target, (str, os.PathLike))
            file = stack.enter_context(replacing(target)) if named else target
            writing = _into_zip(stack, file, files) if kind == "npz" else iter([file])
        parts = stack.enter_context(contextlib.closing(tensors.parts(tensors.rows)))
        for entry in files:
            _copy_file(entry, parts, next(writing), progress)
        next(writing, None)
        names = tensors.names
    return Report(total, tensors.nbytes, len(names), len(files), {})


def _tree_out(stack, tensors, target, progress):
    """Arrays by name, where there were no files."""
    named = isinstance(target, (str, os.PathLike))
    if named and os.path.splitext(target)[1].lower() != ".safetensors":
        raise UnsupportedInput(
            f"it holds a tree of arrays, no files: expected OUT.safetensors, got {target}"
        )
    check_room(sum(row.nbytes for row in tensors.rows), tensors.max_nbytes)
    file = stack.enter_context(replacing(target)) if named else target
    nbytes = write_safetensors(file, tensors, progress=progress)
    return Report(nbytes, tensors.nbytes, len(tensors.names), 1, {})


class FileEntry(NamedTuple):
    """An original file: its path in the folder, bytes, SHA-256, and the rows that make it up."""

    path: str
    nbytes: int
    sha256: str
    rows: list[Row]


def file_entries(tensors: Tensors) -> list[FileEntry]:
    """The original files of an open .jxc file, checked. UnsupportedInput where it is a tree."""
    index = tensors.index
    if index.get("kind") not in ("file", "folder", "npz"):
        raise UnsupportedInput(
            "expected the .jxc file of a model file or folder, got one of a tree of arrays; read "
            "it with jaxcomp.io.load_tensors, or take arrays out with jaxcomp extract"
        )
    entries, at, found = index.get("files"), 0, []
    if not isinstance(entries, list) or (index["kind"] == "file" and len(entries) != 1):
        raise CorruptStream("expected the files of a model in the index, got none")
    for entry in entries:
        good = isinstance(entry, list) and len(entry) == 4 and is_inside(entry[0])
        good = good and type(entry[1]) is int and isinstance(entry[2], str)
        if not good or type(entry[3]) is not int or not 0 <= entry[3] <= len(tensors.rows) - at:
            raise CorruptStream(f"expected a file's path, size and hash, got {ascii(entry)[:80]}")
        rows = tensors.rows[at : at + entry[3]]
        at += entry[3]
        if sum(row.nbytes for row in rows) != entry[1]:
            raise CorruptStream(f"expected {entry[1]} bytes of {ascii(entry[0])[:60]}, got others")
        found.append(FileEntry(entry[0], entry[1], entry[2], rows))
    if at != len(tensors.rows):
        raise CorruptStream(f"expected files of {len(tensors.rows)} arrays, got {at}")
    if len({entry.path for entry in found}) != len(found):
        raise CorruptStream("expected a path of its own for each file, got one twice")
    return found


def verify_file(tensors: Tensors, *, progress: Progress = None) -> int:
    """Decode all files in memory of a few chunks and compare their SHA-256; returns how many."""
    check_room(sum(row.nbytes for row in tensors.rows), tensors.max_nbytes)
    entries, parts = file_entries(tensors), tensors.parts(tensors.rows)
    for entry in entries:
        _copy_file(entry, parts, None, progress)
    return len(entries)


def _copy_file(entry, parts, file, progress):
    """The next parts, which are those of this file, into it; compared with its SHA-256."""
    hasher = hashlib.sha256()
    for row in entry.rows:
        for _ in range(row.chunks):
            _, values = next(parts)
            data = values.view(np.uint8)
            hasher.update(data)
            if file is not None:
                file.write(data)
            if progress is not None:
                progress(data.size)
    if hasher.hexdigest() != entry.sha256:
        raise CorruptStream(
            f"expected {ascii(entry.path)[:80]} to have SHA-256 {ascii(entry.sha256)[:70]}, got "
            f"{hasher.hexdigest()}; fetch or write the file again"
        )


def _add_file(writer, path, nbytes, segments, stream, names):
    """Rows of one file; returns its entry in the index."""
    hasher, first = hashlib.sha256(), len(writer.rows)
    for segment in segments:
        name = segment.name
        if name is not None:
            name = name if name not in names else f"{path}:{name}"
            names.add(name)
        writer.add_parts(
            name, segment.dtype, segment.shape, _reading(stream, segment, hasher, path)
        )
    if stream.read(1):
        _changed(path)
    return [path, nbytes, hasher.hexdigest(), len(writer.rows) - first]


def _reading(stream: BufferedIOBase, segment: Segment, hasher: Any, path: str):
    """parts(step) of a segment, for TensorWriter.add_parts; what is read is hashed."""

    def parts(step: int) -> Iterator[np.ndarray]:
        left = segment.nbytes
        while left:
            data = stream.read(min(left, step * segment.dtype.itemsize))
            left -= len(data)
            if len(data) % segment.dtype.itemsize or not data:
                _changed(path)
            hasher.update(data)
            yield np.frombuffer(data, segment.dtype)

    return parts


def _changed(path):
    raise UnsupportedInput(f"{path}: it changed while it was read; compress it again")


def _into_folder(stack, target, files, folders):
    """Each file of a new folder, open to write, in turn."""
    if not isinstance(target, (str, os.PathLike)):
        raise UnsupportedInput("expected the name of a folder for a folder of files, got a stream")
    if not isinstance(folders, list) or not all(map(is_inside, folders)):
        raise CorruptStream(f"expected names of folders, got {ascii(folders)[:80]}")
    # In this order what is inside of a file, if anything is, comes next.
    places = [(entry.path.split("/"), 0) for entry in files] + [(x.split("/"), 1) for x in folders]
    places.sort()
    for (path, kind), (other, _) in itertools.pairwise(places):
        if kind == 0 and other[: len(path)] == path:
            raise CorruptStream(f"expected {ascii('/'.join(path))[:80]} to be a file, got a folder")
    made = stack.enter_context(new_folder(target))

    def each():
        for folder in folders:
            os.makedirs(os.path.join(made, folder), exist_ok=True)
        for entry in files:
            path = os.path.join(made, entry.path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())

    return stack.enter_context(contextlib.closing(each()))  # closes what is open before the rest


def _into_zip(stack, file, files):
    """Each member of a new archive, open to write, in turn."""
    archive = stack.enter_context(zipfile.ZipFile(file, "w", zipfile.ZIP_STORED))

    def each():
        for entry in files:
            with archive.open(zipfile.ZipInfo(entry.path), "w", force_zip64=True) as member:
                yield member

    return stack.enter_context(contextlib.closing(each()))  # closes what is open before the rest
