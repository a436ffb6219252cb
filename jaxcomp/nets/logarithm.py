"""Logarithms of magnitudes in integers: what networks that predict scales like to see.

    logarithm(x) = log2(1 + |x|), linear between powers of two

Latents have heavy tails: a few of hundreds of steps among many of 0 and 1. In this measure sizes
differ by sums, as the logarithm of a scale does, and 16 bits fit into eight. The piecewise linear
form needs the position of the highest bit alone, and is at most 0.087 below it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int32, Num

from jaxcomp.nets.fixed_point import FixedPoint, dequantise, is_integer, quantise, saturate


def log2_whole(
    x: Int32[Array | np.ndarray, "*any"] | np.int32, fraction: int
) -> Int32[Array, "*any"]:
    """log2(x) in units of 2**-fraction, linear between powers of two, rounded down.

    x: 1 <= x < 2**(31 - fraction).
    """
    e = 31 - lax.clz(x)
    return (e << fraction) + ((x << fraction) >> e) - (1 << fraction)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def signed_logarithms(
    x: Num[Array, "... c"], source: FixedPoint, target: FixedPoint, signed: bool = True
) -> Num[Array, "... d"]:
    """sign(x) logarithm(x) and logarithm(x), side by side: 2 c channels; the latter if not signed.

    Integers of source give integers of target, floats the values that those stand for, with the
    gradient of the piecewise linear function.
    """
    return _forward(x, source, target, signed)[0]


def _forward(x, source, target, signed):
    integers = x if is_integer(x) else quantise(x, source)
    whole = integers.astype(jnp.int32)
    size = jnp.abs(whole) + (1 << source.fraction)
    found = log2_whole(size, target.fraction) - (source.fraction << target.fraction)
    parts = [jnp.sign(whole) * found, found] if signed else [found]
    out = saturate(jnp.concatenate(parts, -1), target)
    like = jnp.zeros((), x.dtype)
    return (out if is_integer(x) else dequantise(out, target)), (whole, size, like)


def _backward(source, target, signed, saved, gradient):
    whole, size, like = saved
    # log2 grows by 1 from 2**k to 2**(k + 1).
    slope = 2.0**source.fraction / (1 << (31 - lax.clz(size))).astype(jnp.float32)
    parts = jnp.split(gradient, 2, -1) if signed else [jnp.zeros(()), gradient]
    return (((parts[0] + jnp.sign(whole) * parts[1]) * slope).astype(like.dtype),)


signed_logarithms.defvjp(_forward, _backward)
