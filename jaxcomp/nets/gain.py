"""Gain units: one model for every rate, by a gain per channel before rounding and one after.

    y_hat = g'(level) round(g(level) y)
    log g(level) = (1 - t) log g_i + t log g_(i+1),    level = i + t

A channel's gain is the inverse of its quantiser step. Each of a few rate levels learns a vector of
gains; levels in between take the geometric mean of their neighbours, weighted by t. Where g g' is
the same at two levels it is the same between them, so interpolated rates reconstruct as truly as
trained ones. With tied=True g' = 1 / g, by construction.

A decoder must not compute exp: `tables` crosses once from floats to integers, for a fixed number of
settings, and `multiply` applies a row in integers.

Z. Cui et al., Asymmetric gained deep image compression with continuous rate adaptation, CVPR 2021,
section 3.2, equations 4 to 7.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Num

from jaxcomp.base import JaxcompError
from jaxcomp.nets.fixed_point import (
    FixedPoint,
    dequantise,
    fake_quantise,
    is_integer,
    quantise,
    saturate,
    shift_round,
)

# A gain of 16 bits times a value of 16 bits stays below 2**30 in int32.
GAIN_BITS = 16


class Gain(nn.Module):
    """level f32[...] in 0..levels - 1 -> (gain, inverse gain) f32[..., features], all positive.

    start: gains of the first and the last level at the start, geometric in between.
    """

    features: int
    levels: int = 4
    start: tuple[float, float] = (0.25, 4.0)
    tied: bool = False

    @nn.compact
    def __call__(self, level: Any) -> tuple[Float[Array, "... c"], Float[Array, "... c"]]:
        if self.levels < 2 or min(self.start) <= 0:
            raise JaxcompError(
                f"expected 2 or more levels and positive gains, got {self.levels}, {self.start}"
            )
        log_gain = self.param("log_gain", self._start, 1.0)
        log_inverse = -log_gain if self.tied else self.param("log_inverse", self._start, -1.0)
        level = jnp.asarray(level, jnp.float32)
        return jnp.exp(interpolate(log_gain, level)), jnp.exp(interpolate(log_inverse, level))

    def _start(self, key, sign):
        first, last = jnp.log(jnp.asarray(self.start, jnp.float32))
        return jnp.tile(sign * jnp.linspace(first, last, self.levels)[:, None], self.features)


def interpolate(
    rows: Float[Array, "levels c"], level: Float[Array, "*batch"]
) -> Float[Array, "*batch c"]:
    """Linear between neighbouring rows, constant beyond the ends, by a weight for every row."""
    levels = jnp.arange(rows.shape[0], dtype=jnp.float32)
    level = jnp.clip(level, 0, rows.shape[0] - 1)
    return jnp.maximum(0, 1 - jnp.abs(level[..., None] - levels)) @ rows


def tables(
    gain: Gain, variables: Any, settings: int, *, fraction: int = 10
) -> tuple[Int32[Array, "settings c"], Int32[Array, "settings c"]]:
    """Gains and inverse gains of evenly spaced levels, as integers in units of 2**-fraction.

    Raises JaxcompError where a gain does not lie between 1 and 2**15 units.
    """
    levels = jnp.linspace(0.0, gain.levels - 1.0, settings)
    rows = [jnp.round(g * 2.0**fraction) for g in gain.apply(variables, levels)]
    low, high = min(float(r.min()) for r in rows), max(float(r.max()) for r in rows)
    if not 1 <= low <= high < 2 ** (GAIN_BITS - 1):
        raise JaxcompError(
            f"gains of {low:.0f} to {high:.0f} units leave 1..{2 ** (GAIN_BITS - 1) - 1}; "
            f"choose another fraction than {fraction}"
        )
    return rows[0].astype(jnp.int32), rows[1].astype(jnp.int32)


def multiply(
    x: Num[Array | np.ndarray, "*shape"],
    gain: Int32[Array, "..."],
    *,
    source: FixedPoint,
    target: FixedPoint,
    fraction: int = 10,
) -> Num[Array, "*shape"]:
    """x times a row of `tables`, from grid to grid, saturated; the same for floats and integers.

    source has at most 16 bits, and target.fraction at most source.fraction + fraction.
    """
    shift = source.fraction + fraction - target.fraction
    if source.bits > 16 or not 0 <= shift <= 30:
        raise JaxcompError(
            f"expected a source of at most 16 bits and a target of up to {fraction} more fraction "
            f"bits, got {source} and {target}"
        )
    if is_integer(x):
        product = saturate(x, source).astype(jnp.int32) * gain
        return saturate(shift_round(product, shift), target)
    x = fake_quantise(x, source)
    smooth = x * (gain * 2.0**-fraction)
    exact = multiply(quantise(x, source), gain, source=source, target=target, fraction=fraction)
    # The value of the integers, the gradient of the product: the first two terms cancel exactly.
    smooth = fake_quantise(smooth, target)
    return smooth - jax.lax.stop_gradient(smooth) + dequantise(exact, target)
