"""Readers and writers: signal files, and trees of compressed weights."""

from typing import TYPE_CHECKING

from jaxcomp.lazy import load_on_use

if TYPE_CHECKING:
    from jaxcomp.io.photo import Photo as Photo
    from jaxcomp.io.photo import image_bytes as image_bytes
    from jaxcomp.io.photo import read_photo as read_photo
    from jaxcomp.io.weights_file import load_weights as load_weights
    from jaxcomp.io.weights_file import save_weights as save_weights

load_on_use(
    __name__,
    {
        "photo": ("Photo", "image_bytes", "read_photo"),
        "weights_file": ("load_weights", "save_weights"),
    },
)
