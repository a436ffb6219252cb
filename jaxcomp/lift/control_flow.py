"""Functions inside a traced function, walked into: jit, remat, scan, while, cond.

Views that a body closes over stay views in it. A view among the xs of a scan is scanned part by
part; a view that a loop carries has to be dense. What the handler gathers is carried through, and a
view that is scanned knows the index that it is at.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.formats.leaf import Leaf
from jaxcomp.lift.view import Atom, View, cut
from jaxcomp.lift.walk import Handler, bind, dense, evaluate


def _inline(name: str):
    def rule(equation, values, handler):
        closed = equation.params[name]
        return evaluate(closed.jaxpr, closed.consts, values, handler)

    return rule


def _remat(equation, values, handler):
    params = equation.params

    def body(arrays, state):
        restored = iter(arrays)
        handler.state = state
        inside = [next(restored) if not isinstance(v, View) else v for v in values]
        inside = [_with(v, next(restored)) if isinstance(v, View) else v for v in inside]
        out = evaluate(params["jaxpr"], (), inside, handler)
        return [dense(v, handler, "checkpoint", "it is returned") for v in out], handler.state

    arrays = [v for v in values if not isinstance(v, View)]
    arrays += [v.source.array for v in values if isinstance(v, View)]
    again = jax.checkpoint(body, prevent_cse=params["prevent_cse"], policy=params["policy"])
    out, handler.state = again(arrays, handler.state)
    return out


def _with(view: View, array: Any) -> View:
    """The view of the same source, whose arrays have become others."""
    return dataclasses.replace(view, source=dataclasses.replace(view.source, array=array))


def _scan(equation, values, handler: Handler):
    params = equation.params
    fixed, carried = params["num_consts"], params["num_carry"]
    consts, carry, xs = values[:fixed], values[fixed : fixed + carried], values[fixed + carried :]
    carry = [dense(v, handler, "scan", "a loop carries it") for v in carry]
    xs = [
        v if _scannable(v) else dense(v, handler, "scan", "not scanned along its first axis")
        for v in xs
    ]
    body_jaxpr = params["jaxpr"]

    def body(now, step):
        carry, handler.state = now
        arrays, index = step
        inside = [
            _inner(v, array, index) if isinstance(v, View) else array
            for v, array in zip(xs, arrays, strict=True)
        ]
        out = evaluate(body_jaxpr.jaxpr, body_jaxpr.consts, [*consts, *carry, *inside], handler)
        out = [dense(v, handler, "scan", "the loop returns it") for v in out]
        return (out[:carried], handler.state), out[carried:]

    arrays = [v.source.array if isinstance(v, View) else v for v in xs]
    # Only what is gathered has to know which part of a weight it belongs to.
    index = jnp.arange(params["length"]) if handler.state else None
    options = {"length": params["length"], "reverse": params["reverse"], "unroll": params["unroll"]}
    (carry, handler.state), ys = lax.scan(body, (carry, handler.state), (arrays, index), **options)
    return [*carry, *ys]


def _scannable(value: Any) -> bool:
    """Whether a value is an array, or a view whose first axis is the first of all its parts."""
    if not isinstance(value, View):
        return True
    array = value.source.array
    first = (Atom(-len(array.shape), array.shape[0], 1),)
    if not value.axes or value.axes[0] != first:
        return False
    if not isinstance(array, Leaf):
        return True
    return -array.ndim in array.layout.free and all(
        part.shape[0] == array.shape[0] for part in array.parts
    )


def _inner(view: View, array: Any, index: Any) -> View:
    """The view inside a loop over its first axis; index is None where no state asks for it."""
    source = view.source
    known = dict(source.at)
    if index is not None:
        axis = -len(source.array.shape)
        known[axis] = known.get(axis, 0) + index
    inner = dataclasses.replace(source, array=array, at=tuple(known.items()))
    return View(inner, view.axes[1:], view.dtype)


def _while(equation, values, handler: Handler):
    params = equation.params
    of_test, of_body = params["cond_nconsts"], params["body_nconsts"]
    test_consts = values[:of_test]
    body_consts = values[of_test : of_test + of_body]
    carry = [dense(v, handler, "while", "a loop carries it") for v in values[of_test + of_body :]]

    def test(now):
        # What a test multiplies is watched no further: its state could not leave it.
        handler.state = now[1]
        jaxpr = params["cond_jaxpr"]
        return evaluate(jaxpr.jaxpr, jaxpr.consts, [*test_consts, *now[0]], handler)[0]

    def body(now):
        carry, handler.state = now
        jaxpr = params["body_jaxpr"]
        out = evaluate(jaxpr.jaxpr, jaxpr.consts, [*body_consts, *carry], handler)
        return [dense(v, handler, "while", "a loop carries it") for v in out], handler.state

    carry, handler.state = lax.while_loop(test, body, (carry, handler.state))
    return carry


def _cond(equation, values, handler: Handler):
    index, *operands = values

    def branch(closed):
        def run(state):
            handler.state = state
            out = evaluate(closed.jaxpr, closed.consts, operands, handler)
            return [dense(v, handler, "cond", "a branch returns it") for v in out], handler.state

        return run

    branches = [branch(closed) for closed in equation.params["branches"]]
    out, handler.state = lax.switch(index, branches, handler.state)
    return out


def _custom_rule(equation, values, handler: Handler):
    """custom_jvp and custom_vjp: packed weights forward, the user's rule on dense ones backward."""
    closed = equation.params["call_jaxpr"]
    if handler.state:  # watched only: nothing is differentiated
        return evaluate(closed.jaxpr, closed.consts, values, handler)
    places = [i for i, v in enumerate(values) if isinstance(v, View)]
    arrays = [v.source.array if isinstance(v, View) else v for v in values]
    why = f"only where it is differentiated: {equation.primitive.name} needs it"

    def restored(arrays):
        return [
            _with(v, a) if isinstance(v, View) else a for v, a in zip(values, arrays, strict=True)
        ]

    @jax.custom_vjp
    def run(arrays):
        out = evaluate(closed.jaxpr, closed.consts, restored(arrays), handler)
        return [dense(v, handler, equation.primitive.name, "it is returned") for v in out]

    def by_rule(arrays):
        inside = restored(arrays)
        for i in places:
            inside[i] = handler.materialise(inside[i], equation.primitive.name, why)
        return bind(equation, inside)

    def forward(arrays):
        return jax.vjp(by_rule, arrays)

    run.defvjp(forward, lambda pull, cotangents: pull(cotangents))
    return run(arrays)


def _barrier(equation, values, handler):
    found = iter(bind_arrays(equation, values))
    return [v if isinstance(v, View) else next(found) for v in values]


def _split(equation, values, handler):
    """jnp.split, the one operation that makes several views of one."""
    view, axis = values[0], equation.params["axis"]
    found, start = [], 0
    for size in map(int, equation.params["sizes"]):
        part = cut(view, axis, start, size)
        if part is None:
            return bind(equation, [dense(view, handler, "split", "not a layout of whole axes")])
        found.append(part)
        start += size
    return found


def bind_arrays(equation, values):
    """optimization_barrier over the operands that are arrays."""
    arrays = [v for v in values if not isinstance(v, View)]
    return lax.optimization_barrier(arrays) if arrays else []


RULES = {
    "jit": _inline("jaxpr"),
    "pjit": _inline("jaxpr"),
    "closed_call": _inline("call_jaxpr"),
    "core_call": _inline("call_jaxpr"),
    "checkpoint": _remat,
    "remat": _remat,
    "remat2": _remat,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "custom_jvp_call": _custom_rule,
    "custom_vjp_call": _custom_rule,
    "custom_vjp_call_jaxpr": _custom_rule,
    "optimization_barrier": _barrier,
    "split": _split,
}
