"""Functions inside a traced function, walked into: jit, remat, scan, while, cond, custom rules.

Views that a body closes over stay views in it. A view among the xs of a scan is scanned part by
part; a view that a loop carries has to be dense, unless the loop hands it on as it is. What the
handler gathers is carried through, and a view that is scanned knows the index that it is at.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.formats.leaf import Leaf
from jaxcomp.lift.sharding import shard_map
from jaxcomp.lift.view import Atom, View, apart, by_turns
from jaxcomp.lift.walk import Handler, bind, dense, evaluate


def run(jaxpr: Any, values: list[Any], handler: Handler) -> list[Any]:
    """A jaxpr of an equation, which is closed or, in later versions of JAX, open."""
    return evaluate(getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ()), values, handler)


def _inline(name: str):
    return lambda equation, values, handler: run(equation.params[name], values, handler)


def _remat(equation, values, handler):
    params = equation.params

    def body(arrays, state):
        restored = iter(arrays)
        handler.state = state
        inside = [next(restored) if not isinstance(v, View) else v for v in values]
        inside = [_with(v, next(restored)) if isinstance(v, View) else v for v in inside]
        out = run(params["jaxpr"], inside, handler)
        return [dense(v, handler, "checkpoint", "it is returned") for v in out], handler.state

    arrays = [v for v in values if not isinstance(v, View)]
    arrays += [v.source.array for v in values if isinstance(v, View)]
    again = jax.checkpoint(body, prevent_cse=params["prevent_cse"], policy=params["policy"])
    out, handler.state = again(arrays, handler.state)
    return out


def _with(view: View, array: Any) -> View:
    """The view of the same source, whose arrays have become others."""
    return replace(view, source=replace(view.source, array=array))


def _handed_on(jaxpr: Any, carry: list[Any], before: int) -> list[bool]:
    """Which carried views a loop's body returns as it got them."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    pairs = zip(carry, jaxpr.invars[before:], jaxpr.outvars, strict=False)
    return [isinstance(v, View) and got is given for v, got, given in pairs]


def _scan(equation, values, handler: Handler):
    params = equation.params
    if "ft_in" in params:  # jax 0.12: (what the body closes over, carry, xs)
        fixed, carried, _ = map(len, params["ft_in"].unpack())
    else:
        fixed, carried = params["num_consts"], params["num_carry"]
    consts, carry, xs = values[:fixed], values[fixed : fixed + carried], values[fixed + carried :]
    same = _handed_on(params["jaxpr"], carry, fixed)
    kept = [v if still else None for v, still in zip(carry, same, strict=True)]
    carry = [None if v is not None else c for v, c in zip(kept, carry, strict=True)]
    carry = [dense(v, handler, "scan", "a loop carries it") for v in carry]
    xs = [_scanned(v) if isinstance(v, View) else v for v in xs]
    xs = [
        dense(given, handler, "scan", "it is not scanned along its first axis") if v is None else v
        for v, given in zip(xs, values[fixed + carried :], strict=True)
    ]
    turns = [by_turns(v.source.array, params["length"]) if _moves(v) else None for v in xs]

    def body(now, step):
        carry, handler.state = now
        parts, index = step
        now = [c if v is None else v for v, c in zip(kept, carry, strict=True)]
        inside = [
            _inner(v, t and t[1](part), index) if isinstance(v, View) else part
            for v, part, t in zip(xs, parts, turns, strict=True)
        ]
        out = run(params["jaxpr"], [*consts, *now, *inside], handler)
        new = [None if still else v for v, still in zip(out, same, strict=False)]
        out = [dense(v, handler, "scan", "the loop returns it") for v in [*new, *out[carried:]]]
        return (out[:carried], handler.state), out[carried:]

    # Only what is gathered has to know which part of a weight it belongs to.
    index = jnp.arange(params["length"]) if handler.state else None
    options = {"length": params["length"], "reverse": params["reverse"], "unroll": params["unroll"]}
    arrays = [(t and t[0]) if isinstance(v, View) else v for v, t in zip(xs, turns, strict=True)]
    steps = (arrays, index)
    (carry, handler.state), ys = lax.scan(body, (carry, handler.state), steps, **options)
    return [*(c if v is None else v for v, c in zip(kept, carry, strict=True)), *ys]


def _scanned(view: View) -> View | None:
    """The view, if its first axis can be looped over: its source's first one, or none of it."""
    axis, source = view.axes[0], view.source
    if len(axis) > 1:
        return None
    if not axis or axis[0].axis is None:
        return view
    size = source.array.shape[0]
    first = -len(source.array.shape)
    if axis[0].axis == first and axis[0].size < size:
        outermost = axis[0].size * axis[0].inner == size
        view = apart(view, axis[0]) if outermost else None
        return view and _scanned(_without_ones(view))
    if axis != (Atom(first, size, 1),):
        return None
    if isinstance(source.array, Leaf):
        return view if first in source.array.loose else None
    # Entries of a watched weight that are not in order have lost their index.
    return view if first not in source.cuts else None


def _without_ones(view: View) -> View:
    """The view of a leaf without its leading axes of size 1."""
    array, count = view.source.array, 0
    while array.shape[count] == 1:
        count += 1
    array = jax.tree.map(lambda part: part.reshape(part.shape[count:]), array)
    return _with(view, array)


def _moves(value: Any) -> bool:
    """Whether a loop over the value goes over an axis of a weight: not over one that it is
    repeated along, or that it was given, or a packed one of size 1, which its parts do not have."""
    if not isinstance(value, View):
        return False
    if value.axes[0]:
        return value.axes[0][0].axis is not None
    array = value.source.array
    if isinstance(array, Leaf) and -len(array.shape) not in array.layout.free:
        return False
    return array.shape[0] == 1


def _inner(view: View, array: Any, index: Any) -> View:
    """The view inside a loop over its first axis; index is None where no state asks for it."""
    source = view.source
    at = dict(source.at)
    if array is None:
        array = source.array
    elif index is not None:
        axis = -len(source.array.shape)
        at[axis] = at.get(axis, 0) + index
    inner = replace(source, array=array, at=tuple(at.items()))
    return replace(view, source=inner, axes=view.axes[1:])


def _while(equation, values, handler: Handler):
    params = equation.params
    of_test, of_body = params["cond_nconsts"], params["body_nconsts"]
    test_consts = values[:of_test]
    body_consts = values[of_test : of_test + of_body]
    carry = values[of_test + of_body :]
    same = _handed_on(params["body_jaxpr"], carry, of_body)
    kept = [v if still else None for v, still in zip(carry, same, strict=True)]
    carry = [None if v is not None else c for v, c in zip(kept, carry, strict=True)]
    carry = [dense(v, handler, "while", "a loop carries it") for v in carry]

    def whole(carry):
        return [c if v is None else v for v, c in zip(kept, carry, strict=True)]

    def test(now):
        # What a test multiplies is watched no further: its state could not leave it.
        carry, handler.state = now
        return run(params["cond_jaxpr"], [*test_consts, *whole(carry)], handler)[0]

    def body(now):
        carry, handler.state = now
        out = run(params["body_jaxpr"], [*body_consts, *whole(carry)], handler)
        out = [None if still else v for v, still in zip(out, same, strict=True)]
        return [dense(v, handler, "while", "a loop carries it") for v in out], handler.state

    carry, handler.state = lax.while_loop(test, body, (carry, handler.state))
    return whole(carry)


def _cond(equation, values, handler: Handler):
    index, *operands = values

    def branch(jaxpr):
        def taken(state):
            handler.state = state
            out = run(jaxpr, operands, handler)
            return [dense(v, handler, "cond", "a branch returns it") for v in out], handler.state

        return taken

    branches = [branch(jaxpr) for jaxpr in equation.params["branches"]]
    out, handler.state = lax.switch(index, branches, handler.state)
    return out


def _custom_rule(equation, values, handler: Handler):
    """custom_jvp and custom_vjp: packed weights forward, the user's rule on dense ones backward."""
    jaxpr, name = equation.params["call_jaxpr"], equation.primitive.name
    if handler.state:  # watched only: nothing is differentiated
        return run(jaxpr, values, handler)
    places = [i for i, v in enumerate(values) if isinstance(v, View)]
    arrays = [v.source.array if isinstance(v, View) else v for v in values]
    why = f"only where it is differentiated: the rule of {name} is for dense arrays"

    def restored(arrays):
        return [
            _with(v, a) if isinstance(v, View) else a for v, a in zip(values, arrays, strict=True)
        ]

    @jax.custom_vjp
    def forward(arrays):
        out = run(jaxpr, restored(arrays), handler)
        return [dense(v, handler, name, "it is returned") for v in out]

    def by_rule(arrays):
        inside = restored(arrays)
        for i in places:
            inside[i] = handler.materialise(inside[i], name, why)
        return bind(equation, inside)

    forward.defvjp(lambda arrays: jax.vjp(by_rule, arrays), lambda pull, given: pull(given))
    note = getattr(handler, "differentiated", None)
    for i in places if note else ():
        note(values[i], name, why)
    return forward(arrays)


def _barrier(equation, values, handler):
    found = iter(bind_arrays(equation, values))
    return [v if isinstance(v, View) else next(found) for v in values]


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
    "shard_map": shard_map,
}
