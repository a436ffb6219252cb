"""aqt(fn): training with int8 products, forward and backward.

    y  = x w       x rounded per row, w per column      both to int8, summed in int32
    dx = g w^T     g rounded per row, w per row
    dw = x^T g     x rounded per column, g per column

Each operand has one scale, max / 127, along what is summed over, so a product is one
int8 dot and an outer product of scales: what Google's library AQT does (Abdolrashidi et al.,
Pareto-optimal quantized ResNet is mostly 4-bit, CVPR workshops 2021, section 3). g is rounded
stochastically, so that gradients stay right on average (Banner et al., Scalable methods for 8-bit
training of neural networks, NeurIPS 2018, section 3): a value between two levels takes the upper
one with the probability of where it lies. The gradient of the rounding is one, straight through.

We draw the noise from a hash of g's sum, so that training needs no key and is repeatable; sums that
differ in their last bit are rounded by other noise.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int8

from jaxcomp.base import random_bits
from jaxcomp.lift.replace import Where, replace_products

TOP = 127  # -128 has no positive twin
FRACTION_BITS = 24  # of a uniform float32 in [0, 1)


def aqt(
    fn: Callable[..., Any], *, stochastic: bool = True, where: Where | None = None
) -> Callable[..., Any]:
    """fn(params, ...) with int8 products at its weights, and int8 products in its gradients.

    stochastic  how gradients are rounded; False: to the nearest
    where       (path, leaf) -> bool; by default every weight that fn multiplies
    """
    return replace_products(fn, functools.partial(int8_product, stochastic=stochastic), where=where)


def int8_product(
    x: Float[Array, "rows in"], w: Float[Array, "in out"], *, stochastic: bool = True
) -> Float[Array, "rows out"]:
    """x w in int8, in x's dtype; its gradients are int8 products too."""
    return _product(x, w, stochastic)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x, w, stochastic):
    return _summed(*_int8(x, 1), *_int8(w, 0), (1, 0)).astype(x.dtype)


def _forward(x, w, stochastic):
    return _product(x, w, stochastic), (x, w)


def _backward(stochastic, kept, g):
    x, w = kept
    dx = _summed(*_int8(g, 1, stochastic), *_int8(w, 1), (1, 1))
    dw = _summed(*_int8(x, 0), *_int8(g, 0, stochastic), (0, 0))
    return dx.astype(x.dtype), dw.astype(w.dtype)


_product.defvjp(_forward, _backward)


def _summed(a, a_scale, b, b_scale, over):
    """The int8 product of two matrices over one axis of each, [rows of a, columns of b]."""
    sums = lax.dot_general(a, b, (([over[0]], [over[1]]), ([], [])), preferred_element_type="int32")
    return sums.astype(jnp.float32) * a_scale.reshape(-1, 1) * b_scale.reshape(1, -1)


def _int8(
    x: Float[Array, "rows columns"], axis: int, stochastic: bool = False
) -> tuple[Int8[Array, "rows columns"], Float[Array, "a b"]]:
    """(codes, scales of size 1 along axis): x is about codes * scales."""
    x = x.astype(jnp.float32)
    most = jnp.abs(x).max(axis, keepdims=True)
    scale = jnp.where(most > 0, most, 1) / TOP
    u = x / scale
    codes = jnp.floor(u + _uniform(x)) if stochastic else jnp.round(u)
    return jnp.clip(codes, -TOP, TOP).astype(jnp.int8), scale


def _uniform(x: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """Noise in [0, 1) for every value, from a hash of their sum."""
    seed = lax.bitcast_convert_type(x.sum(), jnp.uint32)
    counter = lax.iota(jnp.uint32, x.size) + random_bits((0, 0), seed)[0]
    bits = random_bits((0, 1), counter)[0].reshape(x.shape)
    return (bits >> (32 - FRACTION_BITS)).astype(jnp.float32) / (1 << FRACTION_BITS)
