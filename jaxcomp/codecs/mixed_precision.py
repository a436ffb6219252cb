"""Products of bfloat16, sums of float32, in any function: what training on an accelerator uses.

    sum_k round(x_k) round(w_k)        round: to the 8 significant bits of bfloat16

The function is traced, and its jaxpr evaluated with other operands for its float32 products, those
of its derivatives too. Parameters, activations and all that is not a product stay in float32
(Micikevicius et al., Mixed precision training, ICLR 2018, section 3, with bfloat16: its exponents
are those of float32, so losses need no scaling; Kalamkar et al. 2019).

Products narrower than a tile of matrix units gain nothing, and are what has to be exact in a
codec: colours, gains, densities. They ask for all of float32. A product that names its own
precision keeps it, and integers stay integers.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.extend.core.primitives import conv_general_dilated_p, dot_general_p

# Least rows, columns and terms of a product in bfloat16: tensor cores take tiles of 16, a TPU 128.
WIDE = 32
HIGHEST = lax.Precision.HIGHEST, lax.Precision.HIGHEST


def bfloat16_products(function: Callable[..., Any]) -> Callable[..., Any]:
    """function, with wide float32 products of no stated precision in bfloat16. Apply it after grad.

    Results have the shapes and dtypes of the function's.
    """

    @functools.wraps(function)
    def mixed(*arguments):
        with jax.default_matmul_precision(None):
            program, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        leaves = _evaluate(program.jaxpr, program.consts, *jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shapes), leaves)

    return mixed


def _evaluate(jaxpr, consts, *arguments):
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))

    def read(atom):
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        found = _result(equation, [read(atom) for atom in equation.invars])
        found = found if equation.primitive.multiple_results else [found]
        values.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _result(equation, inputs):
    parameters = equation.params
    if equation.primitive in (dot_general_p, conv_general_dilated_p):
        return _product(equation, *inputs)
    if "call_jaxpr" in parameters:  # derivatives of its own are no longer needed
        called = parameters["call_jaxpr"]
        return _evaluate(getattr(called, "jaxpr", called), getattr(called, "consts", ()), *inputs)
    rewritten = jax.tree.map(_rewrite, parameters, is_leaf=_is_leaf)
    return equation.primitive.bind(*inputs, **rewritten)


def _is_leaf(value):
    """Whether a parameter is left whole: all but tuples and lists, which may hold jaxprs."""
    return type(value) not in (dict, tuple, list)


def _rewrite(value):
    if not isinstance(value, ClosedJaxpr | Jaxpr):
        return value
    jaxpr, consts = (value.jaxpr, value.consts) if isinstance(value, ClosedJaxpr) else (value, ())
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in jaxpr.invars]
    made = jax.make_jaxpr(functools.partial(_evaluate, jaxpr, consts))(*shapes)
    return made if isinstance(value, ClosedJaxpr) else made.jaxpr


def _product(equation, x, w):
    primitive, parameters = equation.primitive, equation.params
    if parameters["precision"] is not None or {x.dtype, w.dtype} != {jnp.dtype("float32")}:
        return primitive.bind(x, w, **parameters)
    if _least(equation) < WIDE:
        return primitive.bind(x, w, **{**parameters, "precision": HIGHEST})

    def multiply(x, w, result="float32"):
        known = {**parameters, "preferred_element_type": jnp.dtype(result)}
        return primitive.bind(x, w, **known).astype(jnp.float32)

    def small(x):
        return x.astype(jnp.bfloat16)

    # cuDNN sums in float32 too, but XLA gives it no bfloat16 convolution with a float32 result: it
    # would convert the operands back. There the sum is rounded, once.
    cuda = "float32" if primitive is dot_general_p else "bfloat16"
    return lax.platform_dependent(
        x,
        w,
        cpu=lambda x, w: multiply(_rounded(x), _rounded(w)),  # it has not all products of bfloat16
        cuda=lambda x, w: multiply(small(x), small(w), cuda),
        default=lambda x, w: multiply(small(x), small(w)),
    )


def _rounded(x):
    return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def _least(equation):
    """The smallest of rows, columns and terms of a product."""
    x, w = (atom.aval for atom in equation.invars)
    numbers, size = equation.params["dimension_numbers"], equation.outvars[0].aval.size
    if equation.primitive is dot_general_p:
        (contracted, _), (batch, _) = numbers
        terms = math.prod(x.shape[axis] for axis in contracted)
        many = math.prod(x.shape[axis] for axis in batch)
        return min(terms, x.size // max(terms * many, 1), w.size // max(terms * many, 1))
    groups = equation.params["feature_group_count"] * equation.params["batch_group_count"]
    features = w.shape[numbers.rhs_spec[0]]
    return min(w.size // max(features, 1), features // groups, size // max(features, 1))
