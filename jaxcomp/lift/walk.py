"""The walk: a traced function evaluated again, equation by equation, with views of its weights.

Equations without a view are evaluated as they are. Layout operations on a view make another view;
products, convolutions and lookups go to the handler; control flow is rebuilt around the walk of its
bodies (control_flow.py). Whatever else meets a view gets the dense array, and the handler is told.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from jaxcomp.formats.leaf import Leaf
from jaxcomp.lift import lookup
from jaxcomp.lift import view as views
from jaxcomp.lift.product import plan
from jaxcomp.lift.view import View


@runtime_checkable
class Handler(Protocol):
    """What meets the weights. state threads through loops: arrays by path, {} where not used."""

    state: dict[str, Any]

    def product(self, view: View, x: jax.Array, plan: Any, equation: Any) -> jax.Array | None:
        """A dot_general with its plan; None for what it does not take."""

    def convolution(self, view: View, x: jax.Array, equation: Any) -> jax.Array | None:
        """A conv_general_dilated whose kernel is the view."""

    def lookup(self, view: View, indices: jax.Array, equation: Any) -> jax.Array | None:
        """A gather from the view."""

    def ragged(self, view: View, x: jax.Array, sizes: jax.Array, equation: Any) -> Any:
        """A ragged_dot whose matrices are the view."""

    def materialise(self, view: View, operation: str, why: str) -> jax.Array:
        """The dense array, for an operation that has to have it."""


def evaluate(jaxpr: Any, consts: Any, arguments: list[Any], handler: Handler) -> list[Any]:
    """Results of an open jaxpr, for arguments that may be views; results may be views too."""
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))

    def read(v):
        return v.val if isinstance(v, Literal) else known[v]

    for equation in jaxpr.eqns:
        values = [read(v) for v in equation.invars]
        if any(isinstance(v, View) for v in values):
            results = _with_views(equation, values, handler)
        else:
            results = bind(equation, values)
        known.update(zip(equation.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def bind(equation: Any, values: list[Any]) -> list[Any]:
    """The equation as it is."""
    params = equation.primitive.get_bind_params(equation.params)
    with equation.ctx.manager:
        found = equation.primitive.bind(*values, **params)
    return list(found) if equation.primitive.multiple_results else [found]


def _with_views(equation: Any, values: list[Any], handler: Handler) -> list[Any]:
    from jaxcomp.lift.control_flow import RULES as walked_into

    name = equation.primitive.name
    why = "it is not an operation that packed weights take"
    if name in walked_into:
        return walked_into[name](equation, values, handler)
    if name in LAYOUT:
        found = LAYOUT[name](equation, values)
        if isinstance(found, View | list):
            return found if isinstance(found, list) else [found]
        why = found or "it is not a layout of whole axes"
    elif name in MEETINGS:
        found = MEETINGS[name](equation, values, handler)
        if not isinstance(found, str):
            return [found]
        why = found
    return bind(equation, [dense(v, handler, name, why) for v in values])


def dense(value: Any, handler: Handler, operation: str, why: str) -> Any:
    """The value, as a dense array if it is a view; the handler is told."""
    return handler.materialise(value, operation, why) if isinstance(value, View) else value


def _layout(function: Callable[..., Any]) -> Callable[[Any, list[Any]], Any]:
    """A rule for an equation whose only view is its first operand."""

    def rule(equation, values):
        view, *rest = values
        if not isinstance(view, View) or any(isinstance(v, View) for v in rest):
            return None
        return function(view, equation, *rest)

    return rule


def _slice(view, equation):
    params = equation.params
    steps = params["strides"] or [1] * len(view.axes)
    for axis, (start, stop, step) in enumerate(
        zip(params["start_indices"], params["limit_indices"], steps, strict=True)
    ):
        view = views.cut(view, axis, int(start), -(-(stop - start) // step), int(step))
        if view is None:
            return None
    return view


def _dynamic_slice(view, equation, *starts):
    for axis, (start, size) in enumerate(zip(starts, equation.params["slice_sizes"], strict=True)):
        view = views.cut(view, axis, start, size)
        if view is None:
            return None
    return view


def _reverse(view, equation):
    for axis in equation.params["dimensions"]:
        size = view.shape[axis]
        view = views.cut(view, axis, size - 1, size, -1)
        if view is None:
            return None
    return view


def _split(view, equation):
    axis, start, found = equation.params["axis"], 0, []
    for size in map(int, equation.params["sizes"]):
        found.append(views.cut(view, axis, start, size))
        start += size
    return None if any(part is None for part in found) else found


def _unstack(view, equation):
    axis = equation.params["axis"] % len(view.axes)
    found = [views.cut(view, axis, i, 1) for i in range(view.shape[axis])]
    if any(part is None for part in found):
        return None
    return [views.squeeze(part, (axis,)) for part in found]


def _reshape(view, equation):
    return (
        None
        if equation.params["dimensions"]
        else views.reshape(view, equation.outvars[0].aval.shape)
    )


def _concatenate(equation, values):
    if not all(isinstance(v, View) for v in values):
        return "what it is joined to is not compressed"
    return views.joined(values, equation.params["dimension"])


def _stack(equation, values):
    if not all(isinstance(v, View) for v in values):
        return "what it is joined to is not compressed"
    axis = equation.params["axis"] % (len(values[0].axes) + 1)
    wide = [replace(v, axes=(*v.axes[:axis], (), *v.axes[axis:])) for v in values]
    return views.joined(wide, axis)


def _each_part(view, equation):
    """What changes no value, done to each array of the weight: its type or its gradient differs."""
    return views.mapped(view, lambda part: bind(equation, [part])[0])


LAYOUT = {
    "transpose": _layout(lambda v, e: views.transpose(v, tuple(map(int, e.params["permutation"])))),
    "reshape": _layout(_reshape),
    "squeeze": _layout(lambda v, e: views.squeeze(v, tuple(map(int, e.params["dimensions"])))),
    "broadcast_in_dim": _layout(
        lambda v, e: views.broadcast(
            v, e.outvars[0].aval.shape, tuple(map(int, e.params["broadcast_dimensions"]))
        )
    ),
    "tile": _layout(lambda v, e: views.tile(v, tuple(map(int, e.params["reps"])))),
    "convert_element_type": _layout(lambda v, e: views.convert(v, e.params["new_dtype"])),
    "slice": _layout(_slice),
    "dynamic_slice": _layout(_dynamic_slice),
    "rev": _layout(_reverse),
    "split": _layout(_split),
    "unstack": _layout(_unstack),
    "concatenate": _concatenate,
    "stack": _stack,
    **dict.fromkeys(("pvary", "pcast", "stop_gradient"), _layout(_each_part)),
    # These mean nothing to a weight that is only read: a copy, a name, a place.
    **dict.fromkeys(("copy", "copy_p", "name", "sharding_constraint"), _layout(lambda v, e: v)),
}


def _product(equation, values, handler):
    left, right = values
    if isinstance(left, View) and isinstance(right, View):
        right = handler.materialise(right, "dot_general", "the other operand is compressed too")
    first = isinstance(left, View)
    view, x = (left, right) if first else (right, left)
    x = jnp.asarray(x)  # what fn closes over may be NumPy's
    if not jnp.issubdtype(x.dtype, jnp.floating):  # the product itself takes integers so
        wanted = equation.outvars[0].aval.dtype
        if not jnp.issubdtype(wanted, jnp.floating):
            return f"it meets an array of {x.dtype}"
        x = x.astype(wanted)
    numbers = equation.params["dimension_numbers"]
    view = views.all_apart(view, numbers[1][not first])
    found = plan(view, x.shape, numbers, first=first)
    if isinstance(found, str):
        return found
    return handler.product(view, x, found, equation)


def _convolution(equation, values, handler):
    x, view = values
    if not isinstance(view, View) or isinstance(x, View):
        return "the weight is the signal of a convolution"
    return handler.convolution(view, x, equation)


def _lookup(equation, values, handler):
    view, indices = values
    if not isinstance(view, View):
        return "the weight is an index"
    single = lookup.one(view, indices, equation) if isinstance(view.source.array, Leaf) else None
    if single is not None:
        return single
    return handler.lookup(view, indices, equation)


def _ragged(equation, values, handler):
    x, view, sizes = values
    if not isinstance(view, View) or isinstance(x, View):
        return "the weight is the left operand of a ragged product"
    return handler.ragged(view, x, sizes, equation)


MEETINGS = {
    "dot_general": _product,
    "conv_general_dilated": _convolution,
    "gather": _lookup,
    "ragged_dot": _ragged,
    "ragged_dot_general": _ragged,
}
