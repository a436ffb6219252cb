"""Lower and upper bounds whose gradient lets parameters come back from beyond them.

jnp.maximum(x, bound) has no gradient below the bound, so what strays there stays there. The rule
identity_if_towards passes a gradient whose descent step moves x towards the bound and stops the
others: Balle, Laparra and Simoncelli, ICLR 2017, used for the parameters of GDN.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxcomp.base import JaxcompError

RULES = ("identity_if_towards", "identity", "disconnected")


def lower_bound(
    x: Float[ArrayLike, "*shape"], bound: Float[ArrayLike, "*#shape"], gradient: str = RULES[0]
) -> Float[Array, "*shape"]:
    """max(x, bound). gradient: identity_if_towards, identity, or disconnected as in jnp.maximum.

    bound gets no gradient. Raises JaxcompError for another rule.
    """
    if gradient not in RULES:
        raise JaxcompError(f"gradient must be one of {RULES}, got {gradient!r}")
    return _lower_bound(x, bound, gradient)


def upper_bound(
    x: Float[ArrayLike, "*shape"], bound: Float[ArrayLike, "*#shape"], gradient: str = RULES[0]
) -> Float[Array, "*shape"]:
    """min(x, bound), with the gradients of lower_bound."""
    return -lower_bound(-x, -bound, gradient)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _lower_bound(x, bound, gradient):
    return jnp.maximum(x, bound)


def _forward(x, bound, gradient):
    return jnp.maximum(x, bound), (x, bound)


def _backward(gradient, saved, cotangent):
    x, bound = saved
    if gradient == "identity":
        passes = True
    else:
        passes = x >= bound
        if gradient == "identity_if_towards":
            passes |= cotangent < 0
    return jnp.where(passes, cotangent, 0), jnp.zeros_like(bound)


_lower_bound.defvjp(_forward, _backward)
