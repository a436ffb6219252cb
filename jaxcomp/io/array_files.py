"""One array to a file that other tools open."""

import os

import numpy as np

from jaxcomp.base import UnsupportedInput
from jaxcomp.coding.atomic import replacing
from jaxcomp.io.safetensors_leaves import save_safetensors


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
