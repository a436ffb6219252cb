"""What methods share that wrap another: a Format or a method, its statistic, a change of basis.

A weight is taken to another basis of its inputs, x -> T(x) = (x * input_scale * signs) H, and
compressed there by any method, whose statistic is taken there too:

    w -> (w / input_scale * signs) H,   second moment M -> T M T^T
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from jaxcomp.base import Statistic, Transform, UnsupportedInput
from jaxcomp.formats.format import Format
from jaxcomp.formats.leaf import Leaf
from jaxcomp.formats.sum import Sum
from jaxcomp.formats.transformed import Transformed, transform
from jaxcomp.lift.statistics import both, second_moment
from jaxcomp.weights.rtn import rtn


def as_method(method: Any) -> Transform:
    """A Transform, or a Format, which stands for rounding to nearest."""
    if isinstance(method, Transform):
        return method
    if not isinstance(method, Format):
        raise UnsupportedInput(
            f"expected a Format or a method of jaxcomp.weights, got {method!r}; pass "
            "jc.formats.INT4_G128, or jc.weights.gptq(jc.formats.INT4_G128)"
        )
    return rtn(method)


def needs(
    own: Statistic | None, inner: Statistic | None
) -> tuple[Statistic | None, Callable[[Any], tuple[Any, Any]]]:
    """(what to gather for a method and the one inside it, state -> the states of the two)."""
    if own is None or inner is None:
        return own or inner, lambda state: (
            None if own is None else state,
            None if inner is None else state,
        )
    if own.name == inner.name:
        return own, lambda state: (state, state)
    return both(own, inner), lambda state: (state[own.name], state[inner.name])


def in_basis(
    w: Float[Array, "out in"],
    method: Transform,
    state: Any,
    *,
    input_scale: Float[Array, " in"] | None = None,
    signs: UInt8[Array, " bytes"] | None = None,
    rotate: bool = False,
) -> Transformed:
    """The matrix compressed by `method` in the basis of T, as a leaf of the matrix.

    state is what method.statistic gathered of x; it is a second moment, or None.
    """
    if method.statistic is not None:
        if method.statistic.name != second_moment.name:
            raise UnsupportedInput(
                f"expected a method that needs second moments or nothing inside a change of basis, "
                f"got {method.name}, which needs {method.statistic.name}; put it outside"
            )
        moment = moved_moment(state["moment"], input_scale, signs, rotate=rotate)
        state = {**state, "moment": moment}
    moved = _moved(w, input_scale, signs, rotate=rotate)
    inner = _retyped(method.compress(moved, state, (-1,)), w.dtype)
    rows = [None if part is None else part[None] for part in (input_scale, signs)]
    return Transformed(inner, *rows, rotate)


@functools.partial(jax.jit, static_argnames="rotate")
def _moved(w, input_scale, signs, *, rotate):
    """Rows of the weight where x is T(x), in float32."""
    w = w.astype(jnp.float32)
    w = w if input_scale is None else w / input_scale.astype(jnp.float32)
    return transform(w, None, signs, rotate=rotate)


@functools.partial(jax.jit, static_argnames="rotate")
def moved_moment(moment, input_scale, signs, *, rotate):
    """sum T(x) T(x)^T of sum x x^T."""
    half = transform(moment, input_scale, signs, rotate=rotate)
    return transform(half.T, input_scale, signs, rotate=rotate)


def _retyped(leaf: Leaf, dtype: Any) -> Leaf:
    """The leaf as one of a weight of this dtype: in another basis it was made of float32."""
    if isinstance(leaf, Sum):
        return Sum(tuple(_retyped(term, dtype) for term in leaf.terms))
    if isinstance(leaf, Transformed):
        return dataclasses.replace(leaf, inner=_retyped(leaf.inner, dtype))
    return dataclasses.replace(leaf, dtype=jnp.dtype(dtype))


def output_error(
    residual: Float[Array, "out in"], moment: Float[Array, "in in"] | None
) -> Float[Array, " out"]:
    """Of each output, the squared error d M d^T summed over what was observed; |d|^2 without M."""
    moved = residual if moment is None else jnp.matmul(residual, moment, precision="highest")
    return (moved * residual).sum(1)
