"""The walk of symmetries: a traced function evaluated on labels in place of numbers.

Every value is an array of labels of its own shape (symmetry_book.py). Layout is done to labels as
it is to numbers, so it is exact. Weights stay views until something multiplies them. Loops are
unrolled, so that every layer has its own part of a stacked weight. What other operations do to
labels is said by a domain: symmetry_scale.py or symmetry_orthogonal.py.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxcomp.lift import view as views
from jaxcomp.lift.symmetry_book import Book, Role, Value
from jaxcomp.lift.symmetry_moves import MOVES, joined
from jaxcomp.lift.view import View
from jaxcomp.lift.walk import LAYOUT, bind

MOST_TURNS = 512  # of a loop that is unrolled: more than any model has layers
MOST_KNOWN = 1 << 20  # elements of an array of integers that is computed to see what it indexes
MOST_LABELS = 1 << 24  # of one array: what would need more is taken as seen by something else

Rule = Callable[[Any, list[Any]], list[Value] | None]  # (equation, values); None: not by this rule


@runtime_checkable
class Domain(Protocol):
    """What operations do to labels. rules: by the name of a primitive."""

    book: Book
    rules: dict[str, Rule]

    def value(self, shape: Sequence[int], known: np.ndarray | None = None) -> Value:
        """An array that does not move; known are its numbers."""

    def lost(self, values: list[Value]) -> None:
        """What something unknown sees."""

    def opened(self, labels: np.ndarray, rows: np.ndarray, role: Role) -> Value:
        """Rows of a table: labels of its role, and which row each element is of."""

    def product(
        self, x: Value, writer: np.ndarray, reader: np.ndarray, roles: tuple[Role, Role]
    ) -> Value:
        """x [*batch, rows, in] times a weight, as labels [*batch, rows, out].

        writer [*batch, 1, out] and reader [*batch, 1, in] are the labels of the weight's roles.
        """

    def convolution(
        self, x: Value, equation: Any, writer: np.ndarray, reader: np.ndarray
    ) -> Value | None:
        """x and a kernel, of which these are the labels of its output and input channels."""

    def choice(self, which: Value, cases: list[Value]) -> Value | None:
        """One of some values, entry by entry or all at once."""

    def elementwise(self, equation: Any, values: list[Any]) -> list[Any] | None:
        """What meets views element by element."""


def evaluate(jaxpr: Any, values: list[Any], domain: Domain) -> list[Any]:
    """Results of a jaxpr, open or closed, for arguments that are Values and views."""

    def known(x):
        return domain.value(np.shape(x), np.asarray(x))

    consts = [known(x) for x in getattr(jaxpr, "consts", ())]
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    found: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    found.update(zip(jaxpr.invars, values, strict=True))

    def read(v):
        return known(v.val) if isinstance(v, Literal) else found[v]

    for equation in jaxpr.eqns:
        results = _step(equation, [read(v) for v in equation.invars], domain)
        found.update(zip(equation.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def still(values: list[Any], domain: Domain) -> list[Value]:
    """Values of which nothing may move: views become dense arrays, whose weights stay."""
    for v in values:
        if isinstance(v, View):
            domain.book.lost(v.source.path)
    plain = [domain.value(v.shape) if isinstance(v, View) else v for v in values]
    domain.lost(plain)
    return plain


def _step(equation: Any, values: list[Any], domain: Domain) -> list[Any]:
    name = equation.primitive.name
    found = None
    if name in WALKED_INTO:
        found = WALKED_INTO[name](equation, values, domain)
    elif any(isinstance(v, View) for v in values):
        found = _with_views(name, equation, values, domain)
    elif _foldable(equation, values):
        found = _folded(equation, values, domain)
    elif all(np.prod(v.aval.shape) <= MOST_LABELS for v in equation.outvars):
        for rules in (MOVES, domain.rules):
            found = rules[name](equation, values) if found is None and name in rules else found
    if found is None:
        still(values, domain)
        found = [domain.value(getattr(v.aval, "shape", ())) for v in equation.outvars]
    return found


def _foldable(equation: Any, values: list[Value]) -> bool:
    """Whether the results are few, or integers, that depend on no argument."""

    def few(v):
        dtype = getattr(v.aval, "dtype", None)
        if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended):
            return False
        integers = np.dtype(dtype).kind in "biu"
        return np.prod(v.aval.shape) <= (MOST_KNOWN if integers else 1)

    return all(v.known is not None for v in values) and all(map(few, equation.outvars))


def _folded(equation, values, domain) -> list[Value]:
    with jax.ensure_compile_time_eval():
        found = bind(equation, [jnp.asarray(v.known) for v in values])
    return [domain.value(x.shape, np.asarray(x)) for x in found]


# What weights meet.


def _with_views(name, equation, values, domain) -> list[Any] | None:
    if name in ("concatenate", "stack"):
        return None  # weights that are joined stay as they are
    if name in LAYOUT:
        plain = [v if isinstance(v, View) else _number(v) for v in values]
        found = None if any(v is None for v in plain) else LAYOUT[name](equation, plain)
        return found if isinstance(found, list) else [found] if isinstance(found, View) else None
    meet = {"dot_general": _product, "gather": _lookup, "conv_general_dilated": _convolution}
    if name in meet:
        return meet[name](equation, values, domain)
    return domain.elementwise(equation, values)


def _number(value: Value) -> int | None:
    return int(value.known) if value.known is not None and value.known.size == 1 else None


def places(view: View, role: Role, dims: Sequence[int]) -> np.ndarray | None:
    """Labels of a role along these axes of a view; None where it is not known which they are."""
    source = view.source
    if source.cuts or not all(isinstance(start, int) for _, start in source.at):
        return None
    shape = role.labels.shape
    strides = [0 if n == 1 else int(np.prod(shape[i + 1 :])) for i, n in enumerate(shape)]
    at = np.asarray(sum(start * strides[axis] for axis, start in source.at), np.int64)
    for dim in dims:
        step = np.zeros(1, np.int64)
        for atom in view.axes[dim]:
            stride = 0 if atom.axis is None else strides[atom.axis] * atom.inner
            step = (step[:, None] + np.arange(atom.size) * stride).reshape(-1)
        at = at[..., None] + step
    return role.labels.reshape(-1)[at]


def element_places(view: View, book: Book, use: str) -> tuple[Role, np.ndarray] | None:
    """A role of every element of a weight, and its labels in the view's shape."""
    path = view.source.path
    if np.prod(book.shapes[path]) > MOST_LABELS:
        return None
    role = book.role(path, "writer", range(-len(book.shapes[path]), 0))
    labels = places(view, role, range(len(view.axes)))
    book.used(path, use)
    return None if labels is None else (role, labels)


def number(others: list[Any]) -> bool:
    """Whether there is one other operand, which is one known number but 0."""
    known = [v.known for v in others if isinstance(v, Value)]
    if len(others) != 1 or not known or known[0] is None or not known[0].size:
        return False
    first = known[0].reshape(-1)[0]
    return bool((known[0] == first).all()) and first != 0 and bool(np.isfinite(first))


def _axes(view: View, dims: Sequence[int]) -> set[int]:
    """Axes of the source that these axes of a view are made of."""
    return {a.axis for i in dims for a in view.axes[i] if a.axis is not None}


def _product(equation, values, domain) -> list[Value] | None:
    left, right = values
    if isinstance(left, View) and isinstance(right, View):
        return None
    first = isinstance(left, View)
    view, x = (left, right) if first else (right, left)
    (over, x_over), (batch, x_batch) = (
        pair if first else pair[::-1] for pair in equation.params["dimension_numbers"]
    )
    free = [i for i in range(len(view.axes)) if i not in (*over, *batch)]
    x_free = [i for i in range(x.labels.ndim) if i not in (*x_over, *x_batch)]
    summed, kept, paired = (_axes(view, dims) for dims in (over, free, batch))
    if summed & kept or summed & paired or kept & paired:  # one axis in two parts
        return None
    book, path = domain.book, view.source.path
    every = set(range(-len(book.shapes[path]), 0))
    # Axes that are looped over, indexed or paired stand for separate matrices: both sides' own.
    writer = book.role(path, "writer", every - summed)
    reader = book.role(path, "reader", every - kept)
    book.used(path, (writer.axes, reader.axes))
    w, r = places(view, writer, [*batch, *free]), places(view, reader, [*batch, *over])
    if w is None or r is None:
        return None
    lead, own = [view.shape[i] for i in batch], [view.shape[i] for i in free]
    outer = [x.labels.shape[i] for i in x_free]
    rows, size = int(np.prod(outer)), int(np.prod([view.shape[i] for i in over]))
    x = x.map(lambda a: a.transpose(*x_batch, *x_free, *x_over).reshape(*lead, rows, size))
    w, r = w.reshape(*lead, 1, -1), r.reshape(*lead, 1, size)
    split = len(lead) + len(outer)
    order = [*range(len(lead)), *range(split, split + len(own)), *range(len(lead), split)]

    def placed(a):
        a = a.reshape(*lead, *outer, *own)
        return a.transpose(order) if first else a

    return [domain.product(x, w, r, (writer, reader)).map(placed)]


def _lookup(equation, values, domain) -> list[Any] | None:
    view, indices = values
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    if not isinstance(view, View) or isinstance(indices, View) or numbers.operand_batching_dims:
        return None
    gone, at = numbers.collapsed_slice_dims, indices.known
    if at is not None and at.ndim == 1:  # one known entry: one of stacked layers, say
        for axis, start in zip(numbers.start_index_map, at, strict=True):
            start = max(0, min(int(start), view.shape[axis] - sizes[axis]))
            view = view and views.cut(view, axis, start, sizes[axis])
        return view and [views.squeeze(view, gone)]
    along = [i for i, size in enumerate(sizes) if size != view.shape[i]]
    whole = [i for i in range(len(sizes)) if i not in along and i not in gone]
    looked, kept = _axes(view, along), _axes(view, whole)
    if any(sizes[i] != 1 for i in along) or looked & kept:
        return None
    book, path = domain.book, view.source.path
    role = book.role(path, "writer", set(range(-len(book.shapes[path]), 0)) - looked)
    book.used(path, ("lookup", role.axes))
    labels = places(view, role, whole)
    if labels is None:
        return None
    shape = equation.outvars[0].aval.shape
    sliced = [i for i in range(len(sizes)) if i not in gone]
    own = [d for d, i in zip(numbers.offset_dims, sliced, strict=True) if i in whole]
    rows = np.arange(np.prod([n for d, n in enumerate(shape) if d not in own]), dtype=np.int64)
    labels, rows = (
        np.broadcast_to(
            a.reshape([n if (d in own) == mine else 1 for d, n in enumerate(shape)]), shape
        )
        for a, mine in ((labels, True), (rows, False))
    )
    return [domain.opened(labels, rows, role)]


def _convolution(equation, values, domain) -> list[Value] | None:
    x, view = values
    if not isinstance(view, View) or isinstance(x, View):
        return None
    out, inner, *positions = equation.params["dimension_numbers"].rhs_spec
    made, summed, moved = (_axes(view, dims) for dims in ([out], [inner], positions))
    if made & summed or moved & (made | summed) or equation.params["batch_group_count"] != 1:
        return None
    book, path = domain.book, view.source.path
    every = set(range(-len(book.shapes[path]), 0))
    writer = book.role(path, "writer", every - summed - moved)
    reader = book.role(path, "reader", every - made - moved)
    book.used(path, ("convolution", writer.axes, reader.axes))
    w, r = places(view, writer, [out]), places(view, reader, [inner])
    found = None if w is None or r is None else domain.convolution(x, equation, w, r)
    return found and [found]


# Functions inside the function.


def _inline(name: str):
    return lambda equation, values, domain: evaluate(equation.params[name], values, domain)


def _scan(equation, values, domain):
    params = equation.params
    length = params["length"]
    if not 0 < length <= MOST_TURNS:
        return None
    if "ft_in" in params:  # jax 0.12: (what the body closes over, carry, xs)
        fixed, carried, _ = map(len, params["ft_in"].unpack())
    else:
        fixed, carried = params["num_consts"], params["num_carry"]
    consts, carry, xs = values[:fixed], values[fixed : fixed + carried], values[fixed + carried :]
    made: list[Any] = [None] * length
    for turn in reversed(range(length)) if params["reverse"] else range(length):
        parts = [_part(x, turn) for x in xs]
        if any(part is None for part in parts):
            return None
        out = evaluate(params["jaxpr"], [*consts, *carry, *parts], domain)
        carry, made[turn] = out[:carried], out[carried:]
    stacks = [_stacked(list(turns), domain) for turns in zip(*made, strict=True)]
    return [*carry, *stacks]


def _part(x: Any, turn: int) -> Any:
    if isinstance(x, Value):
        return x.map(lambda a: a[turn])
    part = views.cut(x, 0, turn, 1)
    return part and views.squeeze(part, (0,))


def _stacked(values: list[Any], domain: Domain) -> Value:
    same = None
    if all(isinstance(v, Value) for v in values):
        same = joined(values, np.stack)
    if same is None:
        still(values, domain)
        same = domain.value((len(values), *_shape(values[0])))
    return same


def _shape(v: Any) -> tuple[int, ...]:
    return v.labels.shape if isinstance(v, Value) else v.shape


def _cond(equation, values, domain):
    index, *operands = values
    branches = equation.params["branches"]
    if isinstance(index, View):
        return None
    if index.known is not None:
        chosen = max(0, min(int(index.known), len(branches) - 1))
        return evaluate(branches[chosen], operands, domain)
    found = [evaluate(branch, operands, domain) for branch in branches]
    out = []
    for cases in zip(*found, strict=True):
        plain = all(isinstance(v, Value) for v in cases)
        one = domain.choice(index, list(cases)) if plain else None
        if one is None:
            still([index, *cases], domain)
            one = domain.value(_shape(cases[0]))
        out.append(one)
    return out


WALKED_INTO = {
    **dict.fromkeys(("jit", "pjit", "checkpoint", "remat", "remat2"), _inline("jaxpr")),
    **dict.fromkeys(("closed_call", "core_call", "custom_jvp_call"), _inline("call_jaxpr")),
    **dict.fromkeys(("custom_vjp_call", "custom_vjp_call_jaxpr"), _inline("call_jaxpr")),
    "scan": _scan,
    "cond": _cond,
    "optimization_barrier": lambda equation, values, domain: values,
}
