"""Reference numbers of tensorflow-compression 2.14.1, in an environment of its own.

`make oracle-tfc` writes tfc_strings.npz, tfc_models.npz, tfc_operators.npz and tfc_layers.npz
beside this file, prints each array with its shape, and writes the library's public names to
tfc_public_names.txt, each of which docs/parity.md must answer. Keys read <case>/<what>. All is
float64 where the library allows it, so that errors are ours alone; inputs come with outputs.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc
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
    names = [
        name for name in dir(tfc) if name[0] != "_" and not hasattr(getattr(tfc, name), "__path__")
    ]
    (HERE / "tfc_public_names.txt").write_text("\n".join(names) + "\n")
    for part in sys.argv[1:] or PARTS:
        save(f"tfc_{part}", PARTS[part]())
