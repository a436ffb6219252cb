"""Operations that only move elements, done to labels as they are done to numbers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcomp.lift.symmetry_book import Value


def _move(function: Callable[[np.ndarray, Any], np.ndarray]) -> Callable[..., Any]:
    return lambda equation, values: [values[0].map(lambda a: function(a, equation.params))]


def _broadcast(a, params):
    wide = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], a.shape, strict=True):
        wide[axis] = size
    return np.broadcast_to(a.reshape(wide), params["shape"])


def _slice(a, params):
    steps = params["strides"] or [1] * a.ndim
    spans = zip(params["start_indices"], params["limit_indices"], steps, strict=True)
    return a[tuple(slice(*span) for span in spans)]


def _reshape(equation, values):
    if equation.params["dimensions"]:
        return None
    return [values[0].map(lambda a: a.reshape(equation.outvars[0].aval.shape))]


def joined(values: list[Value], function: Callable[[list[np.ndarray]], np.ndarray]) -> Value | None:
    """Several values as one; None where different things are known of them."""
    notes = {v.note for v in values}
    if len(notes) > 1:
        return None
    fields = zip(*(v[:3] for v in values), strict=True)
    parts = [None if any(x is None for x in field) else function(list(field)) for field in fields]
    return Value(*parts, notes.pop())


def _join(function: Callable[..., np.ndarray], key: str) -> Callable[..., Any]:
    def rule(equation, values):
        found = joined(values, lambda arrays: function(arrays, equation.params[key]))
        return found and [found]

    return rule


def _split(equation, values):
    axis, ends = equation.params["axis"], np.cumsum(equation.params["sizes"])
    return [values[0].map(lambda a, i=i: np.split(a, ends[:-1], axis)[i]) for i in range(len(ends))]


def _unstack(equation, values):
    axis, count = equation.params["axis"], len(equation.outvars)
    return [values[0].map(lambda a, i=i: a.take(i, axis)) for i in range(count)]


def _sources(equation: Any, shape: tuple[int, ...], *rest: Any, **changed: Any) -> np.ndarray:
    """Of each element of the result, 1 + the index of the one it comes from."""
    params = {**equation.primitive.get_bind_params(equation.params), **changed}
    index = np.arange(1, 1 + int(np.prod(shape)), dtype=np.int32).reshape(shape)
    with jax.ensure_compile_time_eval():
        return np.asarray(equation.primitive.bind(*map(jnp.asarray, (index, *rest)), **params))


def _indexed(equation, values):
    """Gathers and dynamic slices whose indices are known."""
    x, *indices = values
    if any(v.known is None for v in indices):
        return None
    gather = equation.primitive.name == "gather"
    changed = {"mode": lax.GatherScatterMode.CLIP, "fill_value": None} if gather else {}
    at = [v.known for v in indices]
    source = _sources(equation, x.labels.shape, *at, **changed) - 1
    return [x.map(lambda a: a.reshape(-1)[source])]


def _pad(equation, values):
    x, filler = values
    if filler.moves:
        return None
    source = _sources(equation, x.labels.shape, np.int32(0))

    def move(arrays):
        a, b = arrays
        return np.concatenate([b.reshape(1), a.reshape(-1)])[source]

    found = joined([x, filler._replace(note=x.note)], move)
    return found and [found]


def pairs(x: np.ndarray, y: np.ndarray, numbers: Any) -> tuple[np.ndarray, np.ndarray]:
    """Operands of a dot_general as arrays [*batch, *rows of x, *rows of y, in] that broadcast."""
    found = []
    for a, over, batch in zip((x, y), *numbers, strict=True):
        rows = [i for i in range(a.ndim) if i not in (*over, *batch)]
        a = a.transpose(*batch, *rows, *over)
        found.append(a.reshape(*a.shape[: len(batch) + len(rows)], -1))
    (x, y), count = found, len(numbers[1][0])
    ones = [1] * (x.ndim - 1 - count), [1] * (y.ndim - 1 - count)
    return (
        x.reshape(*x.shape[:-1], *ones[1], x.shape[-1]),
        y.reshape(*y.shape[:count], *ones[0], *y.shape[count:]),
    )


MOVES = {
    "broadcast_in_dim": _move(_broadcast),
    "transpose": _move(lambda a, p: a.transpose(p["permutation"])),
    "squeeze": _move(lambda a, p: a.squeeze(tuple(p["dimensions"]))),
    "rev": _move(lambda a, p: np.flip(a, tuple(p["dimensions"]))),
    "slice": _move(_slice),
    "reshape": _reshape,
    "concatenate": _join(np.concatenate, "dimension"),
    "stack": _join(np.stack, "axis"),
    "split": _split,
    "unstack": _unstack,
    "gather": _indexed,
    "dynamic_slice": _indexed,
    "pad": _pad,
}
