"""Multiply-accumulates of a network, counted from shapes: nothing runs, no weights are needed.

    macs(net.apply, variables, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))

Each weight times each input of a convolution or a dot product counts once, whatever makes it:
IntegerConv and IntegerDense, nn.Conv and nn.Dense, the matrix of a GDN, attention. An integer layer
counts the same in floats and in integers, and however many int8 products its digits take: 16 bits
times 16 are four. Weights that a mask leaves out do not count; zeros around an image do. Biases,
elementwise arithmetic, rounding and lookups are not counted.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp

from jaxcomp.base import JaxcompError
from jaxcomp.nets.fixed_point import is_integer
from jaxcomp.nets.integer import COUNTING, IntegerConv, IntegerDense

# What these hold runs as often as numbers or machines say, not as shapes do.
_UNKNOWN = ("while", "pallas_call", "shard_map")


def macs(function: Callable[..., Any], *arguments: Any) -> int:
    """Multiply-accumulates of function(*arguments), for the whole batch.

    arguments: pytrees of arrays, or of jax.ShapeDtypeStruct. Integer layers read no variables here:
    a network of nothing else takes {}. Scans count every step, of branches the most expensive.
    Raises JaxcompError for products in a loop of unknown length, a Pallas kernel or a shard_map.
    """
    with COUNTING(True), nn.intercept_methods(_once):
        program = jax.make_jaxpr(function)(*arguments)
    return _count(program.jaxpr)


def _once(following, arguments, options, context):
    """An interceptor: integer layers become one float product of as many multiply-accumulates."""
    if context.method_name == "__call__" and isinstance(context.module, IntegerConv | IntegerDense):
        return _product(context.module, *arguments, **options)
    return following(*arguments, **options)


def _product(layer, x, valid=False):
    """Like the layer in shape and type, but for its numbers. It depends on x, as vmap must see."""
    if valid:
        rows, columns = (n - k + 1 for n, k in zip(x.shape[-3:], layer.kernel_size, strict=False))
        x = x[..., :rows, :columns, :]
    inputs = x.shape[-1]
    if isinstance(layer, IntegerConv):
        if x.ndim < 3 or inputs % layer.groups:
            raise JaxcompError(
                f"expected [..., h, w, c] with c a multiple of {layer.groups}, got {x.shape}"
            )
        taps = math.prod(layer.kernel_size) if layer.mask is None else sum(map(sum, layer.mask))
        inputs = inputs // layer.groups * taps
    rows = jnp.broadcast_to(x[..., :1].astype(jnp.float32), (*x.shape[:-1], inputs))
    y = rows @ jnp.zeros((inputs, layer.features))
    return y.astype(layer.target.dtype) if is_integer(x) else y


def _count(jaxpr):
    return sum(map(_of_equation, jaxpr.eqns))


def _of_equation(equation):
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        left = equation.invars[0].aval.shape
        (contracted, _), _ = parameters["dimension_numbers"]
        return equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        features = kernel.shape[parameters["dimension_numbers"].rhs_spec[0]]
        # A transposed convolution is one of an image with zeros between its pixels.
        between = math.prod(parameters["lhs_dilation"])
        return equation.outvars[0].aval.size * (kernel.size // features) // between
    inner = [_count(getattr(each, "jaxpr", each)) for each in _jaxprs(parameters)]
    if name == "cond":
        return max(inner)
    if name in _UNKNOWN and any(inner):
        raise JaxcompError(
            f"expected products that shapes alone can count, got some inside a {name}; "
            "count what is in it, and multiply by how often it runs"
        )
    return sum(inner) * parameters.get("length", 1) if name == "scan" else sum(inner)


def _jaxprs(parameters):
    leaves = jax.tree.leaves(list(parameters.values()), is_leaf=_is_jaxpr)
    return filter(_is_jaxpr, leaves)


def _is_jaxpr(value):
    return isinstance(value, jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr)
