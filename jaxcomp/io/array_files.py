"""Arrays to files that other tools open: one as .npy, all of a .jxc file as .safetensors."""

import json
import os
from collections.abc import Callable
from io import BufferedIOBase

import numpy as np

from jaxcomp.base import UnsupportedInput
from jaxcomp.coding.atomic import replacing
from jaxcomp.io.safetensors_leaves import ALIGNMENT, DTYPES, save_safetensors
from jaxcomp.io.tensor_reader import Tensors


def write_array(path: str | os.PathLike[str], name: str, x: np.ndarray) -> None:
    """x as .npy, or under its name as .safetensors, by the suffix of path; at once or not at all.

    Raises UnsupportedInput for other suffixes, and for .npy where it has no such dtype: bfloat16
    would come back as bytes.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".safetensors":
        save_safetensors(path, {name: x})
        return
    if suffix != ".npy":
        raise UnsupportedInput(f"expected a path of .npy or .safetensors, got {path}")
    if not hasattr(np, x.dtype.name):
        raise UnsupportedInput(
            f"expected a dtype of NumPy for a .npy file, got {x.dtype}; write .safetensors"
        )
    with replacing(path) as file:
        np.lib.format.write_array(file, x, allow_pickle=False)


def write_safetensors(
    file: BufferedIOBase, tensors: Tensors, *, progress: Callable[[int], None] | None = None
) -> int:
    """All arrays of an open file by their names, in the memory of a few chunks; returns the bytes.

    Wider values come first, as the format's library has them. Raises UnsupportedInput for a dtype
    or a name that the format has not.
    """
    codes = {name: code for code, name in DTYPES.items()}
    rows = [row for row in tensors.rows if row.name is not None]
    rows.sort(key=lambda row: (-row.dtype.itemsize, row.name))
    header, end = {}, 0
    for row in rows:
        if row.name == "__metadata__":
            raise UnsupportedInput(
                "expected another name than __metadata__, which safetensors keeps for itself; read "
                "it with jaxcomp.io.load_tensors"
            )
        if row.dtype.name not in codes:
            raise UnsupportedInput(
                f"expected a dtype that safetensors has ({', '.join(codes)}), got "
                f"{row.dtype.name} in {row.label}; read it with jaxcomp.io.load_tensors"
            )
        start, end = end, end + row.nbytes
        said = {"dtype": codes[row.dtype.name], "shape": list(row.shape)}
        header[row.name] = {**said, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, values in tensors.parts(rows):
        file.write(values.view(np.uint8))
        if progress is not None:
            progress(values.nbytes)
    return 8 + len(text) + end
