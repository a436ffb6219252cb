"""The photo formats everybody has, as Pillow writes them, to stand beside ours.

    JPEG        4:2:0, optimised Huffman tables
    WebP        method 6, the encoder's best
    JPEG 2000   irreversible wavelet and colour transform (Pillow's default is none, at twice the
                bytes), rate set by a PSNR target
    AVIF        Pillow's default speed 6, 4:2:0

Each is a function of one number that grows with quality, and of nothing else.
"""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, features

Encoder = Callable[[np.ndarray, int], bytes]


class Peer(NamedTuple):
    """A format: its name, the settings that draw its curve, its whole range, and its encoder."""

    name: str
    settings: tuple[int, ...]
    lowest: int
    highest: int
    encode: Encoder


def decode(data: bytes, *, channels: int = 3) -> np.ndarray:
    """The samples u8[h, w, channels] of an image file that a peer wrote."""
    image = Image.open(io.BytesIO(data)).convert("L" if channels == 1 else "RGB")
    return np.array(image).reshape(image.height, image.width, channels)


def available() -> tuple[Peer, ...]:
    """The peers that this Pillow was built with, JPEG first."""
    return tuple(peer for peer, feature in _PEERS if feature is None or features.check(feature))


def _pillow(format_name: str, **fixed: object) -> Encoder:
    def encode(image: np.ndarray, setting: int) -> bytes:
        options = dict(fixed)
        if format_name == "JPEG2000":
            options["quality_layers"] = [setting]
        else:
            options["quality"] = setting
        out = io.BytesIO()
        plain = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
        Image.fromarray(plain).save(out, format_name, **options)
        return out.getvalue()

    return encode


_PEERS = (
    (
        Peer(
            *("JPEG", (5, 10, 25, 40, 60, 80, 90, 95), 1, 100),
            _pillow("JPEG", optimize=True, subsampling="4:2:0"),
        ),
        None,
    ),
    (Peer("WebP", (1, 20, 45, 70, 85, 95), 0, 100, _pillow("WEBP", method=6)), "webp"),
    (
        Peer(
            *("JPEG 2000", (26, 29, 32, 35, 38, 42), 20, 60),
            _pillow("JPEG2000", quality_mode="dB", irreversible=True, mct=1),
        ),
        "jpg_2000",
    ),
    (Peer("AVIF", (10, 25, 40, 55, 70, 85), 0, 100, _pillow("AVIF")), "avif"),
)
