"""Sub-pixel resampling: blocks of pixels to channels and back, with a convolution at the low rate.

    space_to_depth   [..., h f, w f, c] -> [..., h, w, f f c], channels ordered (row, column, c)
    depth_to_space   its inverse; both only move numbers, floats or integers

A stride-f convolution of kernel k f is a k x k convolution after space_to_depth, and its transpose
one before depth_to_space, so these two and stride-1 convolutions (the only ones that integer layers
have) are all a codec needs. `layer(features, kernel_size)` makes the convolution: nn.Conv, or
functools.partial(IntegerConv, ...).

W. Shi et al., Real-time single image and video super-resolution using an efficient sub-pixel
convolutional neural network, CVPR 2016, section 3.2; the start without a checkerboard is that of
A. Aitken et al., Checkerboard artifact free sub-pixel convolution, 2017, section 4.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num

from jaxcomp.base import JaxcompError


def space_to_depth(
    x: Num[Array | np.ndarray, "*batch height width c"], factor: int
) -> Num[Array, "*batch h w d"]:
    """Blocks of factor x factor pixels to channels; the size must be divisible by factor."""
    *batch, rows, columns, channels = x.shape
    if rows % factor or columns % factor:
        raise JaxcompError(
            f"factor={factor} must divide the size {rows} x {columns}; pad the image"
        )
    split = (*batch, rows // factor, factor, columns // factor, factor, channels)
    x = jnp.moveaxis(x.reshape(split), -4, -3)  # [..., h, w, f, f, c]
    return x.reshape(*batch, rows // factor, columns // factor, factor * factor * channels)


def depth_to_space(
    x: Num[Array | np.ndarray, "*batch h w d"], factor: int
) -> Num[Array, "*batch height width c"]:
    """Channels to blocks of factor x factor pixels; factor**2 must divide the channels."""
    *batch, rows, columns, depth = x.shape
    if depth % factor**2:
        raise JaxcompError(f"{factor}**2 must divide the channels, got {depth}; choose a multiple")
    split = (*batch, rows, columns, factor, factor, depth // factor**2)
    x = jnp.moveaxis(x.reshape(split), -3, -4)  # [..., h, f, w, f, c]
    return x.reshape(*batch, rows * factor, columns * factor, depth // factor**2)


class Downsample(nn.Module):
    """[..., h f, w f, c] -> [..., h, w, features]."""

    features: int
    factor: int = 2
    kernel_size: tuple[int, int] = (3, 3)
    layer: Callable[..., Any] = nn.Conv

    @nn.compact
    def __call__(self, x: Num[Array | np.ndarray, "..."]) -> Num[Array, "..."]:
        x = space_to_depth(x, self.factor)
        return self.layer(self.features, self.kernel_size, name="layer")(x)


class Upsample(nn.Module):
    """[..., h, w, c] -> [..., h f, w f, features]; starts with all pixels of a block equal."""

    features: int
    factor: int = 2
    kernel_size: tuple[int, int] = (3, 3)
    layer: Callable[..., Any] = nn.Conv

    @nn.compact
    def __call__(self, x: Num[Array | np.ndarray, "..."]) -> Num[Array, "..."]:
        pixels = self.factor**2
        start = repeated(nn.initializers.lecun_normal(), pixels)
        x = self.layer(self.features * pixels, self.kernel_size, kernel_init=start, name="layer")(x)
        return depth_to_space(x, self.factor)


def repeated(initializer: Callable[..., Any], pixels: int) -> Callable[..., Any]:
    """A kernel whose features come in `pixels` equal groups: nearest-neighbour upsampling."""

    def init(key, shape, dtype=jnp.float32):
        one = initializer(key, (*shape[:-1], shape[-1] // pixels), dtype)
        return jnp.tile(one, pixels)

    return init
