"""Trained floats become the integers of a layer, once; the layer then runs in integers only.

    y = clip(floor((sum w x + b) / 2**shift + 1/2))
    w = round(kernel 2**a),    b = round(bias 2**(f + a))

with an exponent a of its own for every output channel, f the fraction of the input. The largest a
is taken for which nothing can overflow, whatever the input: this is a proof, not a calibration. For
inputs of B bits, |x| <= 2**(B - 1), and the rules below give

    |sum w x| <= sum |w| 2**(B - 1) <= 2**30,   |b| <= 2**29,   2**shift / 2 <= 2**27,

which together stay below 2**31, so int32 holds every step. A channel so large that even shift = 0
does not fit has its weights saturated. Scales are powers of two: the nearest one costs a weight
half a bit on average, and in return requantising is one addition and one shift, with no product.

Johannes Balle et al., Integer networks for data compression with latent-variable models, ICLR 2019,
section 3, divides by a learned integer instead, which needs a division and its own rounding rule.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from jaxcomp.base import JaxcompError
from jaxcomp.nets.fixed_point import TWO_DIGITS, FixedPoint, power_of_two

BIAS_LIMIT = 2**29
SUM_LIMIT = 2**30


class IntegerWeights(NamedTuple):
    """What a layer needs to run: a pytree of integers.

    weights  i8 or i16[..., features]; bias i32[features], in units of the sum
    shift    i32[features], 0 to 28: how far the sum is shifted to lie on the target's grid
    """

    weights: Int[Array, "*kernel features"]
    bias: Int32[Array, " features"]
    shift: Int32[Array, " features"]


def quantise_weights(
    kernel: Float[Array | np.ndarray, "*kernel features"],
    bias: Float[Array | np.ndarray, " features"],
    *,
    source: FixedPoint,
    target: FixedPoint,
    weight_bits: int = 8,
) -> IntegerWeights:
    """The integers of a layer from inputs on one grid to outputs on another; works under jit.

    Raises JaxcompError for weight_bits other than 8 or 16, and for more products per output than
    int32 can hold.
    """
    if weight_bits not in (8, 16):
        raise JaxcompError(f"weight_bits must be 8 or 16, got {weight_bits}")
    limit = 127 if weight_bits == 8 else TWO_DIGITS
    fan_in = kernel.size // kernel.shape[-1]
    most = SUM_LIMIT >> (source.bits - 1)  # of sum |w|
    if fan_in > most:
        raise JaxcompError(
            f"{fan_in} products of {source.bits} bits overflow int32; at most {most}, or use groups"
        )
    kernel = jnp.asarray(kernel, jnp.float32)
    size = jnp.abs(kernel).reshape(fan_in, -1)
    peak = size.max(axis=0)
    # The sum in units of 2**-12 of the peak, rounded up, is exact: the same integers on any device.
    unit = jnp.clip(jnp.frexp(peak)[1], -60, 60) - 12
    total = jnp.ceil(jnp.minimum(size * power_of_two(-unit), 4096)).astype(jnp.int32).sum(axis=0)
    # Rounding adds at most 1/2 to each weight, and float32 holds the total to a few parts in 1e8.
    by_sum = _largest_exponent(total.astype(jnp.float32), 0.999 * most - fan_in / 2) - unit
    by_peak = _largest_exponent(peak, limit + 0.49)
    unshifted = target.fraction - source.fraction
    exponent = jnp.clip(jnp.minimum(by_sum, by_peak), unshifted, unshifted + 30 - target.bits)
    # Saturated to this, any weights at all obey the rule for sums.
    bound = jnp.where(exponent > by_sum, min(limit, most // fan_in), limit)
    weights = jnp.clip(jnp.round(kernel * power_of_two(exponent)), -bound, bound)
    units = power_of_two(exponent + source.fraction)
    return IntegerWeights(
        weights.astype(jnp.int8 if weight_bits == 8 else jnp.int16),
        jnp.clip(jnp.round(bias * units), -BIAS_LIMIT, BIAS_LIMIT).astype(jnp.int32),
        (exponent - unshifted).astype(jnp.int32),
    )


def dequantise_weights(
    layer: IntegerWeights, *, source: FixedPoint, target: FixedPoint
) -> Float[Array, "*kernel features"]:
    """The values that the integer weights stand for."""
    exponent = layer.shift + (target.fraction - source.fraction)
    return layer.weights.astype(jnp.float32) * power_of_two(-exponent)


def _largest_exponent(size, bound):
    """The largest a with size * 2**a <= bound, within -60..60, by mantissas and exponents."""
    mantissa, exponent = jnp.frexp(size)
    bound_mantissa, bound_exponent = jnp.frexp(jnp.float32(bound))
    largest = bound_exponent - exponent - (mantissa > bound_mantissa)
    return jnp.where(size > 0, jnp.clip(largest, -60, 60), 60).astype(jnp.int32)
