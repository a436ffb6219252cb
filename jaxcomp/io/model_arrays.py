"""The arrays of a model one by one, whatever files hold it, where its bytes need not come back.

    save_tensors("small.jxc", lambda: model_arrays("model.safetensors"), bound=Relative(1e-2))

.safetensors, .npy and .npz files, folders with such files, and checkpoints of Orbax. What is no
array (configuration, metadata) is not kept; model_files.py keeps every byte.
"""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxcomp.base import UnsupportedInput
from jaxcomp.io.file_segments import file_segments
from jaxcomp.io.model_survey import SUFFIXES
from jaxcomp.io.orbax_arrays import is_orbax, orbax_arrays


def model_arrays(source: str | os.PathLike[str]) -> Iterator[tuple[str, Any]]:
    """(name, array, or function that reads it). A name that occurs twice is path:name.

    Raises UnsupportedInput for other files. Nothing is unpickled.
    """
    source = os.fspath(source)
    if os.path.isdir(source) and is_orbax(source):
        yield from orbax_arrays(source)
        return
    paths = [source]
    if os.path.isdir(source):
        found = [os.path.join(top, name) for top, _, names in os.walk(source) for name in names]
        paths = sorted(path for path in found if path.lower().endswith(SUFFIXES))
    if not paths or not paths[0].lower().endswith(SUFFIXES):
        raise UnsupportedInput(
            f"expected a file of arrays ({', '.join(SUFFIXES)}) or a folder of them, got {source}"
        )
    names: set[str] = set()
    for path in paths:
        label = os.path.relpath(path, source).replace(os.sep, "/")
        for name, x in _of_file(path, os.path.splitext(label)[0]):
            name = f"{label}:{name}" if name in names else name
            names.add(name)
            yield name, x


def _of_file(path, name):
    if path.lower().endswith(".safetensors"):
        return _of_safetensors(path)
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UnsupportedInput(
            f"{path}: expected arrays of numbers, got another file ({error})"
        ) from None
    if isinstance(loaded, np.ndarray):
        return [("array" if name == "." else name, loaded)]
    return ((member, loaded[member]) for member in loaded.files)


def _of_safetensors(path):
    at = 0
    for segment in file_segments(path):
        if segment.name is not None:
            shape, dtype = segment.shape, segment.dtype
            empty = not segment.nbytes
            yield (
                segment.name,
                np.empty(shape, dtype) if empty else np.memmap(path, dtype, "r", at, shape),
            )
        at += segment.nbytes
