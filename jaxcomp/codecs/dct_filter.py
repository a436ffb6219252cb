"""Restoration of decoded planes: a filter chosen for every pixel, in integers.

Around each sample x twelve pairs of opposite neighbours are looked at. Their differences to x are
limited to three thresholds (1/32, 1/8 and 1/2 of a step), weighted and added to x:

    x + sum_i,t w[class, i, t] (clip(left_i - x, +-t) + clip(right_i - x, +-t))

so that small differences, which quantization makes, are smoothed, and large ones, which are in the
photo, are not. The weights are those of least squared error on training photos, for each octave of
the step, for Y and for U, V, and for two properties of a pixel of which they are the sum: its place
in the block (distance 0, 1, 2 or more to the nearest edge, in each direction), and the activity and
direction of second differences of Y around. This is the adaptive loop filter of video coding (VVC,
Karczewicz et al. 2021, its clipping too) with fixed weights.

A tile is a flat canvas whose rows have `stride` samples, MARGIN of them on each side beyond the
tile: one program serves all shapes. With steps of at most 400 the thresholds are at most 100, 400
and 1600; with |weights| < 2**15 sums stay below 12 * 2 * 2100 * 2**15 < 2**31.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int32

from .dct_geometry import SUPERBLOCK
from .dct_transform import LIMIT

MARGIN = 3
TAPS = ((0, 1), (0, 2), (1, 0), (2, 0), (1, 1), (1, -1))
TAPS += ((0, 3), (3, 0), (1, 2), (2, 1), (1, -2), (2, -1))
THRESHOLDS = 3
PLACES = 9
ACTIVITIES = 6
DIRECTIONS = 5
TEXTURES = ACTIVITIES * DIRECTIONS
WEIGHT_BITS = 10
# Activity classes begin where 8 * the sum of 25 second differences reaches these multiples of step.
_ACTIVITY_STEPS = (3, 7, 15, 30, 60)


def canvas_size(capacity: int) -> int:
    """Samples of a canvas that holds any tile of `capacity` cells, its margins included."""
    superblocks = capacity // 4
    # The longest perimeter is that of a single row of superblocks.
    return (SUPERBLOCK + 2 * MARGIN) * (superblocks * SUPERBLOCK + 2 * MARGIN)


def canvas_map(rows: int, columns: int, size: int) -> tuple[np.ndarray, int]:
    """(index of each canvas sample in the superblocks' samples i32[size], stride).

    rows, columns: in superblocks. Margins repeat the edge; the rest of the canvas is sample 0.
    """
    height, width = rows * SUPERBLOCK, columns * SUPERBLOCK
    y = np.clip(np.arange(-MARGIN, height + MARGIN), 0, height - 1)
    x = np.clip(np.arange(-MARGIN, width + MARGIN), 0, width - 1)
    row = (y // SUPERBLOCK) * columns * SUPERBLOCK**2 + y % SUPERBLOCK * SUPERBLOCK
    column = x // SUPERBLOCK * SUPERBLOCK**2 + x % SUPERBLOCK
    out = np.zeros(size, np.int32)
    out[: len(y) * len(x)] = (row[:, None] + column).ravel()
    return out, len(x)


def places(modes: Int32[Array, "s 4"]) -> Int32[Array, "s 32 32"]:
    """The place of each sample in its block, 3 * vertical + horizontal, by superblock."""
    whole = (modes == 0)[..., None]
    k = np.arange(16)
    far = np.arange(32).reshape(2, 16)[np.array([[0, 1, 0, 1], [0, 0, 1, 1]])]  # [xy, cell, 16]
    kind = jnp.maximum(modes - 1, 0)

    def distance(halved, along):
        inner = jnp.where(
            halved[..., None] == 1, np.minimum(k % 8, 7 - k % 8), np.minimum(k, 15 - k)
        )
        return jnp.minimum(jnp.where(whole, np.minimum(far, 31 - far)[along], inner), 2)

    vertical, horizontal = distance(kind & 1, 1), distance(kind >> 1, 0)  # [s, 4, 16]
    place = 3 * vertical[..., :, None] + horizontal[..., None, :]
    s = modes.shape[0]
    return place.reshape(s, 2, 2, 16, 16).swapaxes(2, 3).reshape(s, 32, 32)


def textures(y: Int32[Array, " size"], stride, step) -> Int32[Array, " size"]:
    """Activity and direction of the second differences of a canvas of Y, 0 .. TEXTURES - 1."""

    def difference(offset):
        return jnp.abs(2 * y - _shift(y, offset) - _shift(y, -offset))

    # |y| <= 2**16: 25 second differences stay below 2**23.
    horizontal, vertical, falling, rising = (
        _box(difference(offset), stride) for offset in (1, stride, stride + 1, stride - 1)
    )
    activity = sum(
        (8 * (horizontal + vertical) >= step * k).astype(jnp.int32) for k in _ACTIVITY_STEPS
    )
    slanted = jnp.where(falling > 2 * rising, 3, jnp.where(rising > 2 * falling, 4, 0))
    direction = jnp.where(
        horizontal > 2 * vertical, 1, jnp.where(vertical > 2 * horizontal, 2, slanted)
    )
    return activity * DIRECTIONS + direction


def _box(x, stride):
    x = sum(_shift(x, i) for i in (-2, -1, 0, 1, 2))
    return sum(_shift(x, i * stride) for i in (-2, -1, 0, 1, 2))


def _shift(x, offset):
    """x[i + offset], cyclic."""
    return jnp.roll(x, -offset)


def thresholds(step):
    """The limits of differences, in 2**-VALUE_BITS, of a step in 1/16."""
    return jnp.maximum(jnp.stack([step >> 6, step >> 4, step >> 2]), 1)


def terms(plane: Int32[Array, " size"], tap, stride, step) -> Int32[Array, "thresholds size"]:
    """What the weights of one tap multiply."""
    offset = (
        jnp.asarray([a for a, _ in TAPS])[tap] * stride + jnp.asarray([b for _, b in TAPS])[tap]
    )
    limit = thresholds(step)[:, None]
    before, after = _shift(plane, -offset) - plane, _shift(plane, offset) - plane
    return jnp.clip(before, -limit, limit) + jnp.clip(after, -limit, limit)


def restore(
    planes: Int32[Array, "3 size"],
    place: Int32[Array, " size"],
    stride: Int32[Array, ""],
    step: Int32[Array, ""],
    weights: Int32[Array, "2 taps thresholds classes"],
) -> Int32[Array, "3 size"]:
    """The filtered canvas; weights of this step, for Y and for U, V, by PLACES x TEXTURES."""
    kind = place * TEXTURES + textures(planes[0], stride, step)

    def add(tap, total):
        chosen = weights[:, tap][:, :, kind]  # [2, thresholds, size]
        return jnp.stack(
            [
                total[c] + (terms(planes[c], tap, stride, step) * chosen[min(c, 1)]).sum(0)
                for c in range(3)
            ]
        )

    total = lax.fori_loop(0, len(TAPS), add, jnp.zeros_like(planes))
    out = planes + ((total + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS)
    return jnp.clip(out, -LIMIT, LIMIT)


def join(stored: np.ndarray) -> np.ndarray:
    """Weights by PLACES x TEXTURES, i32[..., classes], of those by place and those by texture."""
    place, texture = stored[..., :PLACES, None], stored[..., None, PLACES:]
    both = place.astype(np.int32) + texture
    return both.reshape(*stored.shape[:-1], PLACES * TEXTURES)
