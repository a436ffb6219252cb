"""Symmetries of kind "orthogonal": vectors that may all be turned by one matrix.

An element of a value is entry c of a vector, c its label, and R x of what it was. Which elements
are one vector is said by ids: equal ids and other labels are entries of one vector, equal ids and
equal labels are equal numbers. What treats entries alike keeps vectors: sums of vectors, numbers
that are the same for a whole vector times it. Wherever vectors end, in a product with a weight or
in a sum of squares, they have to be whole: a class is a set of labels that are all there whenever
one of them is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcomp.lift.symmetry_book import STILL, Book, Role, Value, mixed, salt
from jaxcomp.lift.symmetry_moves import pairs
from jaxcomp.lift.symmetry_walk import MOST_LABELS, element_places, number
from jaxcomp.lift.view import View

SQUARED = "squared"  # the note of products of vectors, entry by entry; others are paths of gains
KEEPS = "neg convert_element_type copy copy_p stop_gradient name sharding_constraint pvary pcast"
# What is equal where its operands are.
ELEMENTWISE = (
    f"{KEEPS} abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp cos cosh "
    "digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma "
    "log log1p logistic lt max min mul ne nextafter not or pow rem round rsqrt select_n "
    "shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square sub tan tanh "
    "xor"
)


class Rotations:
    """The domain of rotations.

    records  (labels, groups): vectors that have to be whole, one for each group
    groups   {label of a weight: which of its vectors it is in}
    gains    {path of what reads vectors: the notes that they came with}
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]]):
        self.book = Book(shapes)
        self.records: list[tuple[np.ndarray, np.ndarray]] = []
        self.grouped: list[tuple[np.ndarray, np.ndarray]] = []
        self.gains: dict[str, set[str | None]] = {}
        self.rules = {
            **dict.fromkeys(ELEMENTWISE.split(), self._elementwise),
            "reduce_sum": self._reduce,
            "dot_general": self._dot,
        }

    def value(self, shape: Sequence[int], known: np.ndarray | None = None) -> Value:
        labels = np.broadcast_to(np.int32(STILL), shape)
        if known is not None and known.dtype.kind in "biuf":  # equal numbers, equal ids
            return Value(labels, mixed(known.astype(np.float64).view(np.uint64)), known)
        size = int(np.prod(shape, dtype=np.int64))
        ids = mixed(salt(), np.arange(size, dtype=np.uint64)).reshape(shape)
        return Value(labels, ids, known)

    def lost(self, values: list[Value]) -> None:
        for v in values:
            self.book.still(v.labels)

    def opened(self, labels: np.ndarray, rows: np.ndarray, role: Role) -> Value:
        own = np.unique(labels)
        self._record(own, np.zeros(own.shape, np.uint64), weight=True)
        return Value(labels, mixed(salt(), rows))

    def product(self, x, writer, reader, roles) -> Value:
        lead, rows = x.labels.shape[:-2], x.labels.shape[-2]
        batch = np.arange(int(np.prod(lead)), dtype=np.uint64).reshape(*lead, 1)
        self.book.same(x.labels, reader)
        if x.moves:
            if x.note == SQUARED:
                self.lost([x])
            self.gains.setdefault(roles[1].path, set()).add(x.note)
            self._record(reader[..., 0, :], mixed(batch, _folded(x.ids, -2)), weight=True)
        self._record(writer[..., 0, :], mixed(batch), weight=True)
        ids = mixed(salt(), batch[..., None], np.arange(rows, dtype=np.uint64)[:, None])
        shape = (*lead, rows, writer.shape[-1])
        return Value(np.broadcast_to(writer, shape), np.broadcast_to(ids, shape))

    def convolution(self, x, equation, writer, reader) -> Value | None:
        """A kernel may write vectors, one for each place; as a reader it is not followed."""
        if equation.params["feature_group_count"] != 1:
            return None
        self.lost([x])
        self.book.still(reader)
        self._record(writer, np.zeros(writer.shape, np.uint64), weight=True)
        shape = equation.outvars[0].aval.shape
        place = equation.params["dimension_numbers"].out_spec[1]
        rows = [1 if i == place else size for i, size in enumerate(shape)]
        ids = mixed(salt(), np.arange(int(np.prod(rows)), dtype=np.uint64)).reshape(rows)
        wide = [-1 if i == place else 1 for i in range(len(shape))]
        return Value(np.broadcast_to(writer.reshape(wide), shape), np.broadcast_to(ids, shape))

    def elementwise(self, equation: Any, values: list[Any]) -> list[Any] | None:
        """Biases, which write vectors, and gains, which are to be folded into what reads them."""
        name = equation.primitive.name
        if name not in ("mul", "div", "add", "sub") or len(values) != 2:
            return None
        first = isinstance(values[0], View)
        view, x = values if first else values[::-1]
        if isinstance(x, View):
            return None
        if name == "mul" or (name == "div" and first):
            if number([x]):
                return [view]
        if name == "div" or x.note is not None or not (x.labels > 0).all():
            return None
        found = element_places(view, self.book, "gain" if name == "mul" else "bias")
        if found is None:
            return None
        labels, own, ids = np.broadcast_arrays(found[1], x.labels, x.ids)
        x = Value(own, ids)
        entries = mixed(x.ids, x.labels.astype(np.uint64))
        if len(np.unique(entries)) < len(np.unique(mixed(entries, labels.astype(np.uint64)))):
            return None  # equal entries meet different elements
        ids = mixed(salt(), x.ids)
        if name == "mul":
            return [Value(x.labels, ids, note=view.source.path)]
        own, times = np.unique(labels, return_counts=True)
        if len(set(times)) > 1:
            return None
        order = np.argsort(labels.reshape(-1), kind="stable")
        groups = _folded(x.ids.reshape(-1)[order].reshape(len(own), -1), 1)
        self._record(own, groups, weight=True)
        self.book.same(labels, x.labels)
        return [Value(x.labels, ids)]

    def _record(self, labels: np.ndarray, groups: np.ndarray, *, weight: bool) -> None:
        """Vectors that have to be whole: one of the weight, or of a value."""
        labels, groups = (a.reshape(-1) for a in np.broadcast_arrays(labels, groups))
        pair = labels[labels > 0], groups[labels > 0]
        self.records.append(pair)
        if weight:
            self.grouped.append(pair)

    def _elementwise(self, equation, values):
        name, to = equation.primitive.name, equation.outvars[0].aval
        ids = mixed(salt(), *(v.ids for v in values))
        if not any(v.moves for v in values):
            return [self.value(to.shape)._replace(ids=np.broadcast_to(ids, to.shape))]
        if name in KEEPS:
            exact = np.issubdtype(to.dtype, np.inexact) or to.dtype.kind == "V"
            return [values[0]._replace(ids=ids, known=None)] if exact else None
        if name == "square" or (name == "integer_pow" and equation.params["y"] == 2):
            return self._times(values[0], values[0])
        if name == "mul":
            return self._times(*values)
        if name == "div" and not values[1].moves:
            return self._times(*values)
        if name in ("add", "sub", "add_any"):
            return self._sum(values, ids)
        if name == "select_n":
            found = self.choice(values[0], values[1:])
            return found and [found]
        return None

    def choice(self, which: Value, cases: list[Value]) -> Value | None:
        ids = mixed(salt(), which.ids, *(case.ids for case in cases))
        if not any(v.moves for v in (which, *cases)):
            return self.value(ids.shape)._replace(ids=ids)
        found = None if which.moves else self._sum(cases, ids)
        return found and found[0]

    def _times(self, a: Value, b: Value):
        ids = mixed(salt(), a.ids, b.ids)
        if a.moves and b.moves:
            alike = a.labels.shape == b.labels.shape and (a.labels == b.labels).all()
            if not alike or a.note is not None or b.note is not None:
                return None
            return [Value(a.labels, ids, note=SQUARED)]
        vector = a if a.moves else b
        return [Value(np.broadcast_to(vector.labels, ids.shape), ids, note=vector.note)]

    def _sum(self, values: list[Value], ids: np.ndarray):
        """Sums and choices: entry by entry of vectors, or of zeros."""
        moving = [v for v in values if v.moves]
        others = [v for v in values if not v.moves]
        if any(v.note is not None for v in moving):
            return None
        if any(v.known is None or v.known.any() for v in others):
            return None
        for v in moving[1:]:
            self.book.same(moving[0].labels, v.labels)
        return [Value(np.broadcast_to(moving[0].labels, ids.shape), ids)]

    def _reduce(self, equation, values):
        axes = equation.params["axes"]
        count, x = len(axes), values[0]

        def last(a):
            a = np.moveaxis(a, axes, range(-count, 0))
            return a.reshape(*a.shape[: a.ndim - count], -1)

        return self._total(x.map(last))

    def _total(self, x: Value):
        """The sum over the last axis."""
        if 0 in x.labels.shape:
            return None
        ids = _folded(x.ids, -1)
        if x.note == SQUARED:
            out = np.arange(ids.size, dtype=np.uint64).reshape(*ids.shape, 1)
            self._record(x.labels, mixed(out, x.ids), weight=False)
            return [self.value(ids.shape)]
        labels = x.labels.max(-1)
        self.book.same(x.labels, labels[..., None])
        return [Value(labels, mixed(salt(), ids), note=x.note)]

    def _dot(self, equation, values):
        """A product of two values: a sum of products."""
        if not any(v.moves for v in values):
            return None
        numbers = equation.params["dimension_numbers"]
        labels = pairs(*(v.labels for v in values), numbers)
        shape = np.broadcast_shapes(*(a.shape for a in labels))
        if np.prod(shape) > MOST_LABELS:
            return None
        ids = pairs(*(v.ids for v in values), numbers)
        x, y = (
            Value(np.broadcast_to(a, shape), np.broadcast_to(b, shape), note=v.note)
            for a, b, v in zip(labels, ids, values, strict=True)
        )
        found = self._times(x, y)
        return found and self._total(found[0])


def _folded(ids: np.ndarray, axis: int) -> np.ndarray:
    """One id for all along an axis, in their order: a sum with odd random factors."""
    ids = np.moveaxis(ids, axis, -1)
    factors = mixed(np.arange(ids.shape[-1], dtype=np.uint64)) | np.uint64(1)
    with np.errstate(over="ignore"):
        return mixed((ids * factors).sum(-1, dtype=np.uint64))


def settle(rotations: Rotations) -> tuple[np.ndarray, np.ndarray]:
    """(i32[labels] the class of each label, 0 of what stays; i32[classes] the block of each).

    Classes of one block are entries of the same vectors.
    """
    book = rotations.book
    book.settle()
    while True:
        classes = book.classes()
        count = len(book.edges)
        for labels, groups in rotations.records:  # an entry twice in one vector
            keys = mixed(groups, classes[labels].astype(np.uint64))
            _, first, times = np.unique(keys, return_index=True, return_counts=True)
            book.still(labels[first[(times > 1) & (classes[labels[first]] > 0)]])
        if len(book.edges) == count:
            break
    vectors = np.zeros(classes.max() + 1, np.uint64)
    seen: set[bytes] = set()
    for labels, groups in rotations.records:
        found = classes[labels]
        order = np.lexsort([found, groups])
        ends = np.flatnonzero(np.diff(groups[order])) + 1
        for vector in np.split(found[order], ends):
            vector = vector[vector > 0]
            key = vector.tobytes()
            if key not in seen:
                seen.add(key)
                vectors[vector] += mixed(salt())
    vectors[0] = 0
    blocks = np.unique(vectors, return_inverse=True)[1].reshape(-1)
    return classes, np.where(vectors > 0, blocks + 1, 0)


def vector_of(rotations: Rotations) -> np.ndarray:
    """u64[labels]: which vector of its weight each label is in."""
    found = np.zeros(rotations.book.count, np.uint64)
    for labels, groups in rotations.grouped:
        found[labels] = mixed(found[labels], groups)
    return found
