"""jaxcomp train, with a codec that compiles in a second: python -m tests.cli.toy_training ..."""

import io
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcomp.base import Codec

SHAPES = {"analysis": (8, 8, 3, 32), "prior": (1, 1, 32, 32), "synthesis": (1, 1, 32, 192)}


def init(key):
    keys = jax.random.split(key, len(SHAPES))
    make = jax.nn.initializers.lecun_normal()
    return {name: make(k, s) for (name, s), k in zip(SHAPES.items(), keys, strict=True)}


def apply(params, images, *, key, quality):
    """Cells of 8 x 8 as 32 noisy numbers each, whose sizes are their bits."""
    names = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(
        images / 64 - 2, params["analysis"], (8, 8), "VALID", dimension_numbers=names
    )
    y = y + 0.1 * jax.random.normal(key, y.shape)
    bits = jnp.abs(y @ params["prior"][0, 0]).sum((1, 2, 3)) * quality / 50
    cells = y @ params["synthesis"][0, 0]
    batch, rows, columns, _ = cells.shape
    planes = cells.reshape(batch, rows, columns, 8, 8, 3).swapaxes(2, 3)
    return 64 * (planes.reshape(batch, 8 * rows, 8 * columns, 3) + 2), bits


def patch(setattr):
    """Make it the codec of every name; its weights are an .npz, and are not calibrated."""

    def save(codec, params):
        file = io.BytesIO()
        np.savez(file, **params)
        return file.getvalue()

    codec = Codec(init, apply, None, None, "toy")
    setattr("jaxcomp.codecs.files.find", lambda name: codec)
    setattr("jaxcomp.codecs.latent_calibration.calibrate", lambda codec, params, photos: params)
    setattr("jaxcomp.codecs.weights.save_weights", save)
    setattr("jaxcomp.cli.common.start_jax", lambda **_: None)


def weights(run):
    """What a run ended with."""
    with np.load(run / "weights.jxw") as file:
        return {name: file[name] for name in SHAPES}


def steps(run):
    """The steps whose checkpoints a run keeps."""
    return sorted(int(name) for name in os.listdir(run / "checkpoints"))


if __name__ == "__main__":
    import pytest

    from jaxcomp.cli.main import main

    patch(pytest.MonkeyPatch().setattr)
    sys.exit(main(sys.argv[1:]))
