"""Fixed point: the grid that an integer layer's numbers lie on, in floats or as integers.

    value = integer * 2**-fraction,    low <= integer <= high

Steps are powers of two, so a value of at most 24 bits is exact in float32, moving between grids is
a shift, and a network that keeps to its grids computes the same in floats as in integers. Training
sees the grid through a straight-through gradient (Bengio, Leonard and Courville 2013, section 4),
which stops where a value is clipped and would move further out; a plain mask would leave clipped
values where they are for good.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Int32, Num

from jaxcomp.base import JaxcompError

# Integers of at most 24 bits are exact in float32: training carries them in floats.
WIDEST = 24
# Two int8 digits in base 256 reach 127 * 256 + 127: wider values would not be two int8 products.
TWO_DIGITS = 127 * 257


class FixedPoint(NamedTuple):
    """Integers of `bits` bits in units of 2**-fraction. Static: a constant of a network."""

    bits: int = 8
    fraction: int = 4

    @property
    def high(self) -> int:
        """The largest integer: 2**(bits - 1) - 1, for 16 bits 32639."""
        high = 2 ** (self.bits - 1) - 1
        return min(high, TWO_DIGITS) if self.bits <= 16 else high

    @property
    def low(self) -> int:
        """The smallest integer: -2**(bits - 1), for 16 bits -32639."""
        return -TWO_DIGITS if self.bits == 16 else -(2 ** (self.bits - 1))

    @property
    def dtype(self) -> Any:
        """The narrowest integer type that holds it."""
        return jnp.int8 if self.bits <= 8 else jnp.int16 if self.bits <= 16 else jnp.int32

    @property
    def step(self) -> float:
        """The value of 1."""
        return 2.0**-self.fraction


def check(grid: FixedPoint, *, most: int = WIDEST) -> FixedPoint:
    """The grid, if it has 2 to `most` bits and a step that float32 holds; else JaxcompError."""
    if not 2 <= grid.bits <= most or abs(grid.fraction) > 30:
        raise JaxcompError(
            f"expected 2 to {most} bits and a fraction of -30 to 30, got {grid}; choose others"
        )
    return grid


def quantise(x: Float[Array | np.ndarray, "*shape"], grid: FixedPoint) -> Int[Array, "*shape"]:
    """The nearest integers of the grid, halves up, saturated, in the grid's dtype."""
    scaled = jnp.clip(jnp.asarray(x, jnp.float32) * 2.0**grid.fraction, grid.low, grid.high)
    return jnp.floor(scaled + 0.5).astype(grid.dtype)


def dequantise(x: Int[Array | np.ndarray, "*shape"], grid: FixedPoint) -> Float[Array, "*shape"]:
    """The values of integers, exact in float32 for up to 24 bits."""
    return jnp.asarray(x, jnp.float32) * grid.step


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def fake_quantise(
    x: Float[Array | np.ndarray, "*shape"], grid: FixedPoint
) -> Float[Array, "*shape"]:
    """The nearest values of the grid, as float32, with the straight-through gradient."""
    return dequantise(quantise(x, grid), grid)


def _fake_quantise_forward(x, grid):
    integers = quantise(x, grid)
    return dequantise(integers, grid), (integers, jnp.zeros((), x.dtype))


def _fake_quantise_backward(grid, saved, gradient):
    integers, like = saved
    return (inward(gradient, integers, grid.low, grid.high).astype(like.dtype),)


fake_quantise.defvjp(_fake_quantise_forward, _fake_quantise_backward)


def inward(
    gradient: Float[Array, "*shape"], x: Num[Array, "*shape"], low: float | int, high: float | int
) -> Float[Array, "*shape"]:
    """The gradient, without what would push x at or beyond a bound further out.

    Descent goes by -gradient.
    """
    outward = ((x <= low) & (gradient > 0)) | ((x >= high) & (gradient < 0))
    return jnp.where(outward, 0, gradient)


def saturate(
    x: Int[Array | np.ndarray, "*shape"], grid: FixedPoint, low: int | None = None
) -> Int[Array, "*shape"]:
    """Integers clipped to the grid (from `low` up, if given), in the grid's dtype."""
    # Plain lax, and only what changes something: networks of hundreds of these are traced at start.
    held = np.iinfo(x.dtype)
    low, high = grid.low if low is None else low, grid.high
    if low > held.min or high < held.max:
        limits = (np.array(n, x.dtype) for n in (max(low, held.min), min(high, held.max)))
        x = lax.clamp(next(limits), x, next(limits))
    return lax.convert_element_type(x, grid.dtype)


def shift_round(
    x: Int32[Array | np.ndarray, "*shape"], shift: Int32[Array, " features"] | int
) -> Int32[Array, "*shape"]:
    """floor(x / 2**shift + 1/2) in int32, for shift >= 0 and |x| + 2**shift / 2 < 2**31."""
    shift = jnp.asarray(shift, jnp.int32)
    half = lax.shift_right_arithmetic(lax.shift_left(jnp.ones_like(shift), shift), np.int32(1))
    last = tuple(range(x.ndim - shift.ndim, x.ndim))
    half, shift = (lax.broadcast_in_dim(n, x.shape, last) for n in (half, shift))
    return lax.shift_right_arithmetic(lax.add(x, half), shift)


def rescale(
    x: Num[Array | np.ndarray, "*shape"], source: FixedPoint, target: FixedPoint
) -> Num[Array, "*shape"]:
    """From one grid to another: a shift for integers, fake_quantise for floats.

    Both round half up and saturate, so both give the same values.
    """
    if not is_integer(x):
        return fake_quantise(fake_quantise(x, source), target)
    up = target.fraction - source.fraction
    x = lax.convert_element_type(saturate(x, source), jnp.int32)
    if up <= 0:
        # From 24 bits at most, a shift of 31 gives 0 or -1 + 1/2 -> 0 as a longer one would.
        return saturate(shift_round(x, min(-up, 30)), target)
    # Saturate before the shift, so that it cannot overflow: the widest target has 24 bits.
    up = min(up, 31)
    return saturate(jnp.clip(x, -(2**30 >> up), 2**30 >> up) << up, target)


def add(
    x: Num[Array | np.ndarray, "*shape"], y: Num[Array | np.ndarray, "*shape"], grid: FixedPoint
) -> Num[Array, "*shape"]:
    """x + y on one grid, saturated: what a residual connection needs, for integers or floats."""
    if is_integer(x) != is_integer(y):
        raise JaxcompError(f"expected two arrays of one kind, got {x.dtype} and {y.dtype}")
    if not is_integer(x):
        return fake_quantise(x + y, grid)
    x, y = (lax.convert_element_type(part, jnp.int32) for part in (x, y))
    return saturate(x + y, grid)


def is_integer(x: Array | np.ndarray) -> bool:
    """Whether an array is of integers: layers then run in integers."""
    return jnp.issubdtype(x.dtype, jnp.integer)


def power_of_two(exponent: Int32[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
    """2.0**exponent for exponents of -126 to 127, built from bits: exp2 is not exact anywhere."""
    return jax.lax.bitcast_convert_type((exponent.astype(jnp.int32) + 127) << 23, jnp.float32)
