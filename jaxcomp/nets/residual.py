"""Residual blocks: x + f(x), with f of two 3x3 convolutions, or of a bottleneck 1x1, 3x3, 1x1.

The last kernel starts at zero, so a block is the identity until it has learned something and depth
costs no stability (Goyal et al. 2017, section 5.1). IntegerResidualBlock is the same on fixed-point
grids: trained in floats, run in integers.

K. He et al., Deep residual learning for image recognition, CVPR 2016, section 3; the bottleneck as
in D. He et al., ELIC, CVPR 2022, section 3.3.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, Num

from jaxcomp.base import JaxcompError
from jaxcomp.nets.fixed_point import FixedPoint, add
from jaxcomp.nets.integer import IntegerConv
from jaxcomp.nets.integer_layer import FEATURES

ZEROS = nn.initializers.zeros


class ResidualBlock(nn.Module):
    """x[..., h, w, c] -> the same shape. bottleneck: channels between the two 1x1 convolutions."""

    bottleneck: int | None = None
    activation: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "*batch h w c"]
    ) -> Float[Array, "*batch h w c"]:
        channels = x.shape[-1]
        sizes = _sizes(channels, self.bottleneck)
        y = x
        for features, size in sizes[:-1]:
            y = self.activation(nn.Conv(features, size)(y))
        return x + nn.Conv(channels, sizes[-1][1], kernel_init=ZEROS)(y)


class IntegerResidualBlock(nn.Module):
    """The same from a grid to itself, with ReLU: x int or float, saturated where the sum leaves it.

    x must lie on `grid`: what an integer layer with this target returns does.
    """

    bottleneck: int | None = None
    grid: FixedPoint = FEATURES
    weight_bits: int = 8

    @nn.compact
    def __call__(self, x: Num[Array | np.ndarray, "..."]) -> Num[Array, "..."]:
        sizes = _sizes(x.shape[-1], self.bottleneck)
        shared = {"source": self.grid, "target": self.grid, "weight_bits": self.weight_bits}
        y = x
        for features, size in sizes[:-1]:
            y = IntegerConv(features, size, relu=True, **shared)(y)
        y = IntegerConv(x.shape[-1], sizes[-1][1], kernel_init=ZEROS, **shared)(y)
        return add(x, y, self.grid)


def _sizes(channels: int, bottleneck: int | None) -> list[tuple[int, tuple[int, int]]]:
    """(features, kernel size) of each convolution."""
    if bottleneck is None:
        return [(channels, (3, 3)), (channels, (3, 3))]
    if bottleneck < 1:
        raise JaxcompError(f"bottleneck must be at least 1 channel, got {bottleneck}; use None")
    return [(bottleneck, (1, 1)), (bottleneck, (3, 3)), (channels, (1, 1))]
