"""Attention inside windows: every pixel attends to the window x window pixels of its own tile.

    y = softmax(q k^T / sqrt(d) + B) v,    B[i, j] = bias[head, row_i - row_j, column_i - column_j]

Cost grows with the pixels, not with their square. With shift > 0 the tiles are offset by that many
pixels, so that alternating layers connect neighbouring tiles. Tiles that reach beyond the image are
filled up, and what was filled is masked: no size has to be a multiple of the window, and (unlike
Swin's cyclic shift) nothing wraps around. Returns the attended values alone; add the input for a
residual branch.

Z. Liu et al., Swin transformer, ICCV 2021, section 3.2; in codecs R. Zou, C. Song and Z. Zhang,
The devil is in the details: window-based attention for image compression, CVPR 2022, section 3.2.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxcomp.base import JaxcompError

MASKED = -1e30  # finite, so that a row of masked scores is no NaN


class WindowAttention(nn.Module):
    """x[..., h, w, c] -> the same shape; c must be divisible by heads."""

    heads: int = 8
    window: int = 8
    shift: int = 0

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "*batch h w c"]
    ) -> Float[Array, "*batch h w c"]:
        channels = x.shape[-1]
        if channels % self.heads or not 0 <= self.shift < self.window:
            raise JaxcompError(
                f"heads={self.heads} must divide the channels {channels}, and shift={self.shift} "
                f"be less than window={self.window}"
            )
        batch, size = x.shape[:-3], x.shape[-3:-1]
        tiles, inside = to_windows(x.reshape(-1, *x.shape[-3:]), self.window, self.shift)
        joint = nn.Dense(3 * channels, name="query_key_value")(tiles)
        split = joint.reshape(*joint.shape[:-1], 3, self.heads, channels // self.heads)
        q, k, v = jnp.moveaxis(split, -3, 0)  # [b, t, n, heads, d]
        scores = jnp.einsum("btihd,btjhd->bthij", q, k) * (channels // self.heads) ** -0.5
        offsets = relative_offsets(self.window)
        bias = self.param(
            "bias", nn.initializers.normal(0.02), (self.heads, (2 * self.window - 1) ** 2)
        )
        scores = scores + bias[:, offsets]
        scores = jnp.where(inside[None, :, None, None, :], scores, MASKED)
        y = jnp.einsum("bthij,btjhd->btihd", nn.softmax(scores), v)
        y = nn.Dense(channels, name="out")(y.reshape(tiles.shape))
        y = from_windows(y, self.window, self.shift, size)
        return y.reshape(*batch, *size, channels)


def to_windows(
    x: Float[Array | np.ndarray, "b h w c"], window: int, shift: int = 0
) -> tuple[Float[Array, "b t n c"], np.ndarray]:
    """Tiles in raster order, n = window**2 pixels each, and which pixels are inside: bool[t, n]."""
    b, rows, columns, channels = x.shape
    pads = [_pad(size, window, shift) for size in (rows, columns)]
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    inside = np.pad(np.ones((1, rows, columns, 1), bool), ((0, 0), *pads, (0, 0)))
    return _tile(padded, window), _tile(inside, window)[0, :, :, 0]


def from_windows(
    tiles: Float[Array, "b t n c"], window: int, shift: int, size: tuple[int, int]
) -> Float[Array, "b h w c"]:
    """The inverse of to_windows for an image of this size."""
    (top, bottom), (left, right) = [_pad(length, window, shift) for length in size]
    down = (top + size[0] + bottom) // window
    x = tiles.reshape(tiles.shape[0], down, -1, window, window, tiles.shape[-1])
    x = x.swapaxes(2, 3).reshape(tiles.shape[0], down * window, -1, tiles.shape[-1])
    return x[:, top : top + size[0], left : left + size[1]]


def relative_offsets(window: int) -> np.ndarray:
    """int[n, n]: which of the (2 window - 1)**2 biases belongs to each pair of pixels."""
    rows, columns = np.divmod(np.arange(window**2), window)
    down = rows[:, None] - rows + window - 1
    across = columns[:, None] - columns + window - 1
    return down * (2 * window - 1) + across


def _pad(size: int, window: int, shift: int) -> tuple[int, int]:
    before = -shift % window
    return before, -(size + before) % window


def _tile(x: jax.Array | np.ndarray, window: int) -> jax.Array | np.ndarray:
    b, rows, columns, channels = x.shape
    x = x.reshape(b, rows // window, window, columns // window, window, channels)
    return x.swapaxes(2, 3).reshape(b, -1, window**2, channels)
