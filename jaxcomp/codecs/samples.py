"""Images as photo codecs see them, u8[h, w, 3], and as their owners do: colour or grey."""

from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxcomp.base import CorruptStream, UnsupportedInput

MAX_SIDE = 1 << 20


def to_colour(image: np.ndarray, codec: str) -> UInt8[np.ndarray, "h w 3"]:
    """u8[h, w, 3], [h, w, 1] or [h, w] with three channels. Raises UnsupportedInput for others."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise UnsupportedInput(
            f"expected uint8[h, w, 3] or uint8[h, w], got {image.dtype}{list(image.shape)}"
        )
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels not in (1, 3) or max(image.shape) > MAX_SIDE:
        raise UnsupportedInput(
            f"expected 3 channels or 1 and sides up to {MAX_SIDE}, got {list(image.shape)}; the "
            f"{codec} codec carries no alpha: drop it, or blend it with a background"
        )
    return np.broadcast_to(image.reshape(*image.shape[:2], channels), (*image.shape[:2], 3))


def from_colour(image: UInt8[np.ndarray, "h w 3"], shape: tuple[int, ...]) -> np.ndarray:
    """The image in the shape that it had: one of equal channels where it was grey."""
    if len(shape) == 3 and shape[2] == 3:
        return image.reshape(shape)
    return np.ascontiguousarray(image[..., 0]).reshape(shape)


def read_shape(header: dict[str, Any]) -> tuple[int, ...]:
    """The shape in a payload's header. Raises CorruptStream for what is none."""
    shape = header.get("shape")
    sides = isinstance(shape, list | tuple) and all(
        type(n) is int and 1 <= n <= MAX_SIDE for n in shape
    )
    if not sides or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3)):
        raise CorruptStream(f"expected a shape [h, w], [h, w, 1] or [h, w, 3], got {shape!r:.80}")
    return tuple(shape)
