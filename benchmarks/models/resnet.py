"""ResNet-20 for CIFAR-10 as a plain JAX function, batch normalisation folded into its convolutions.

He et al., Deep residual learning, CVPR 2016, section 4.2, with shortcuts of kind A: every second
sample, zeros for the channels that are new. The weights are those of pytorch_resnet_cifar10
(Y. Idelbayev, 2018), as NumPy arrays under the names of that project. At load each convolution is
transposed from OIHW to HWIO and multiplied by the scale of the batch normalisation that follows it;
what is left of that is a bias. The classifier stays as stored, [classes, channels].
"""

import itertools
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, UnidentifiedImageError

from jaxcomp.base import CorruptStream, JaxcompError

EPSILON = 1e-5  # of batch normalisation, PyTorch's default
# Of each channel, as that project trains: the constants of ImageNet.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
SIDE = 32


def _folded(arrays: dict[str, np.ndarray], conv: str, norm: str, inputs: int) -> dict[str, Any]:
    """A convolution and the batch normalisation after it: weight [3, 3, in, out] and bias [out]."""
    weight = arrays[f"{conv}.weight"]
    parts = [arrays[f"{norm}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")]
    shape = (len(weight), inputs, 3, 3)
    if weight.shape != shape or any(part.shape != shape[:1] for part in parts):
        raise CorruptStream(
            f"expected {conv} of shape {shape} and {norm} of {shape[:1]}, got {weight.shape} and "
            f"{[part.shape for part in parts]}; fetch the file again"
        )
    gamma, beta, mean, variance = (part.astype(np.float64) for part in parts)
    scale = gamma / np.sqrt(variance + EPSILON)
    return {
        "weight": jnp.asarray(weight.transpose(2, 3, 1, 0) * scale, jnp.float32),
        "bias": jnp.asarray(beta - mean * scale, jnp.float32),
    }


def load(path: str | Path) -> dict[str, Any]:
    """The float32 weights of an .npz; how many blocks it has is the depth: 9 for ResNet-20.

    {"stem": conv, "blocks": [{"first": conv, "second": conv}, ...], "classifier": {"weight":
    [classes, 64], "bias"}}, where conv is {"weight": [3, 3, in, out], "bias": [out]}. CorruptStream
    where an array is missing or has another shape.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        stem = _folded(arrays, "conv1", "bn1", 3)
        blocks, width = [], stem["bias"].size
        for stage in (1, 2, 3):
            for i in itertools.count():
                name = f"layer{stage}.{i}"
                if i and f"{name}.conv1.weight" not in arrays:
                    break
                first = _folded(arrays, f"{name}.conv1", f"{name}.bn1", width)
                width = first["bias"].size
                second = _folded(arrays, f"{name}.conv2", f"{name}.bn2", width)
                blocks.append({"first": first, "second": second})
        weight, bias = arrays["linear.weight"], arrays["linear.bias"]
    except (zipfile.BadZipFile, EOFError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, JaxcompError):
            raise
        raise CorruptStream(
            f"expected the arrays of a ResNet in {Path(path).name}, got {error}; fetch it again"
        ) from error
    if weight.shape != (*bias.shape, width):
        raise CorruptStream(
            f"expected a classifier of {(*bias.shape, width)}, got {weight.shape}; fetch it again"
        )
    classifier = {"weight": jnp.asarray(weight), "bias": jnp.asarray(bias)}
    return {"stem": stem, "blocks": blocks, "classifier": classifier}


def _convolve(x, conv, stride=1):
    y = jax.lax.conv_general_dilated(
        x,
        conv["weight"],
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + conv["bias"]


def apply(params: dict[str, Any], images: jax.Array) -> jax.Array:
    """Logits f32[batch, classes] of normalised images f32[batch, 32, 32, 3]."""
    x = jax.nn.relu(_convolve(images, params["stem"]))
    for block in params["blocks"]:
        new = block["first"]["bias"].size - x.shape[-1]
        stride = 2 if new else 1  # a stage that widens halves the picture
        y = jax.nn.relu(_convolve(x, block["first"], stride))
        y = _convolve(y, block["second"])
        shortcut = x[:, ::stride, ::stride]
        shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))
        x = jax.nn.relu(y + shortcut)
    x = x.mean(axis=(1, 2))
    classifier = params["classifier"]
    return jnp.einsum("bc,oc->bo", x, classifier["weight"]) + classifier["bias"]


def normalise(images: np.ndarray) -> np.ndarray:
    """uint8[n, 32, 32, 3] -> the float32 that the model was trained on."""
    return ((images / np.float32(255) - np.float32(MEAN)) / np.float32(DEVIATION)).astype("f4")


def read_sheet(path: str | Path) -> np.ndarray:
    """uint8[n, 32, 32, 3] of a PNG whose every row is one picture, its 1024 RGB pixels in turn."""
    try:
        with Image.open(path) as sheet:
            if sheet.size[0] != SIDE * SIDE or sheet.mode != "RGB":
                raise CorruptStream(
                    f"expected RGB rows of {SIDE * SIDE} pixels, got {sheet.mode} rows of "
                    f"{sheet.size[0]}; is {Path(path).name} a sheet of CIFAR-10?"
                )
            return np.asarray(sheet).reshape(-1, SIDE, SIDE, 3)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise CorruptStream(
            f"expected a whole PNG in {Path(path).name}, got {error}; fetch it again"
        ) from error


def cifar10(folder: str | Path, sheets: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """(uint8[n, 32, 32, 3], int32[n]): the first sheets of 1,000 CIFAR-10 training images and the
    classes that a ResNet-56 gives them. These are not the true labels."""
    folder = Path(folder)
    images = np.concatenate([read_sheet(folder / f"cifar10_batch_{i}.png") for i in range(sheets)])
    lines = (folder / "pseudo_labels_resnet56.txt").read_text().split()
    if len(lines) < len(images) or not set(lines) <= set("0123456789"):
        raise CorruptStream(
            f"expected at least {len(images)} classes of 0 to 9, got {len(lines)} lines; "
            "fetch the labels again"
        )
    return images, np.array(lines[: len(images)], np.int32)
