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
from jaxcomp.lift.view import Atom, View
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
    fixed, carried = params["num_consts"], params["num_carry"]
    consts, carry, xs = values[:fixed], values[fixed : fixed + carried], values[fixed + carried :]
    same = _handed_on(params["jaxpr"], carry, fixed)
    kept = [v if still else None for v, still in zip(carry, same, strict=True)]
    carry = [None if v is not None else c for v, c in zip(kept, carry, strict=True)]
    carry = [dense(v, handler, "scan", "a loop carries it") for v in carry]
    xs = [v if _scannable(v) else dense(v, handler, "scan", NOT_SCANNED) for v in xs]
    split = [_split(v, params["length"]) for v in xs]

    def body(now, step):
        carry, handler.state = now
        parts, index = step
        now = [c if v is None else v for v, c in zip(kept, carry, strict=True)]
        inside = [
            _inner(v, [*p], s[1], index) if isinstance(v, View) else p[0]
            for v, p, s in zip(xs, parts, split, strict=True)
        ]
        out = run(params["jaxpr"], [*consts, *now, *inside], handler)
        new = [None if still else v for v, still in zip(out, same, strict=False)]
        out = [dense(v, handler, "scan", "the loop returns it") for v in [*new, *out[carried:]]]
        return (out[:carried], handler.state), out[carried:]

    # Only what is gathered has to know which part of a weight it belongs to.
    index = jnp.arange(params["length"]) if handler.state else None
    options = {"length": params["length"], "reverse": params["reverse"], "unroll": params["unroll"]}
    steps = ([parts for parts, _ in split], index)
    (carry, handler.state), ys = lax.scan(body, (carry, handler.state), steps, **options)
    return [*(c if v is None else v for v, c in zip(kept, carry, strict=True)), *ys]


NOT_SCANNED = "it is not scanned along its first axis"


def _scannable(value: Any) -> bool:
    """Whether a value is an array, or a view whose first axis is nothing or its source's first."""
    if not isinstance(value, View) or not value.axes[0] or value.axes[0][0].axis is None:
        return not isinstance(value, View) or len(value.axes[0]) < 2
    array, cuts = value.source.array, value.source.cuts
    first = -len(array.shape)
    if value.axes[0] != (Atom(first, array.shape[0], 1),):
        return False
    # Entries of a watched weight that are not in order have lost their index.
    return first in array.layout.free if isinstance(array, Leaf) else first not in cuts


def _split(value: Any, length: int) -> tuple[list[Any], list[Any] | None]:
    """(what is scanned, what is the same in every turn) of an array or of a view's arrays."""
    if not isinstance(value, View):
        return [value], None
    parts = jax.tree.leaves(value.source.array)
    array = value.source.array
    gone = array.shape[0] == 1 and not value.axes[0]  # the source's first axis, of size 1
    if not gone and not _own(value):
        return [None] * len(parts), parts
    along = [part.shape[0] == length for part in parts]
    moving = [p if a else None for p, a in zip(parts, along, strict=True)]
    return moving, [None if a else p[0] for p, a in zip(parts, along, strict=True)]


def _own(view: View) -> bool:
    """Whether the view's first axis is one of its source, not a broadcast."""
    return bool(view.axes[0]) and view.axes[0][0].axis is not None


def _inner(view: View, moving: list[Any], fixed: list[Any], index: Any) -> View:
    """The view inside a loop over its first axis; index is None where no state asks for it."""
    source = view.source
    parts = [f if m is None else m for m, f in zip(moving, fixed, strict=True)]
    array = jax.tree.unflatten(jax.tree.structure(source.array), parts)
    at = dict(source.at)
    if index is not None and len(array.shape) < len(source.array.shape):
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
