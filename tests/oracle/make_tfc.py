"""Reference numbers of tensorflow-compression 2.14.1, in an environment of its own.

`make oracle-tfc` writes tfc_strings.npz, tfc_models.npz, tfc_operators.npz and tfc_layers.npz
beside this file, and prints each array with its shape. Every key reads <case>/<what>. All is
float64 where the library allows it, so that errors are ours alone; inputs come with outputs.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from tfc_layers import layers
from tfc_models import models
from tfc_operators import operators
from tfc_strings import strings

HERE = Path(__file__).parent
PARTS = {"strings": strings, "models": models, "operators": operators, "layers": layers}


def numpy_of(value):
    """What NumPy stores: tensors as arrays, one string as bytes in uint8."""
    value = value.numpy() if hasattr(value, "numpy") else value
    return np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.asarray(value)


def save(name, arrays):
    """One file, its arrays printed."""
    arrays = {key: numpy_of(value) for key, value in arrays.items()}
    for key, value in arrays.items():
        print(f"{name:14} {key:44} {value.dtype}{list(value.shape)}")
    path = HERE / f"{name}.npz"
    np.savez_compressed(path, **arrays)
    print(f"{path.name}: {path.stat().st_size} bytes\n")


if __name__ == "__main__":
    print(f"TensorFlow {tf.__version__}, NumPy {np.__version__}")
    for part in sys.argv[1:] or PARTS:
        save(f"tfc_{part}", PARTS[part]())
