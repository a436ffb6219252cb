"""Symmetries of kind "scale": channels of which every element may be multiplied by one number.

An element of a value is s times what it was, where s > 0 is the scale of its label. A product with
a weight makes new labels and asks for one label per input; sums, comparisons and choices ask for
one label among what they join; a product of two values has the product of two scales, of which
only one may be free in the end: that which was made last, nearest to what reads it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcomp.lift.symmetry_book import FREE, STILL, Book, Role, Value, distinct
from jaxcomp.lift.symmetry_moves import pairs
from jaxcomp.lift.symmetry_walk import MOST_LABELS, element_places, number
from jaxcomp.lift.view import View

# f(s x) = s f(x) for s > 0
KEEPS = (
    "neg abs convert_element_type copy copy_p stop_gradient name sharding_constraint pvary pcast"
).split()
JOINS = "add sub max min add_any".split()
COMPARES = "gt ge lt le eq ne".split()
REDUCES = "reduce_sum reduce_max reduce_min cumsum cummax cummin".split()


class Scales:
    """The domain of scales; `products` are (label, one factor, the other)."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]):
        self.book = Book(shapes)
        self.products: list[np.ndarray] = []
        self.rules = {
            **dict.fromkeys(KEEPS, self._keep),
            **dict.fromkeys(JOINS, self._join),
            **dict.fromkeys(COMPARES, self._compare),
            **dict.fromkeys(REDUCES, self._reduce),
            "mul": lambda equation, values: [Value(self._times(*(v.labels for v in values)))],
            "div": self._divide,
            "sign": self._compare,
            "select_n": lambda equation, values: [self.choice(values[0], values[1:])],
            "dot_general": self._dot,
            "gather": self._anywhere,
            "dynamic_slice": self._anywhere,
            "reduce_window_max": self._windows,
            "reduce_window_sum": self._windows,
            "reduce_window_min": self._windows,
        }

    def value(self, shape: Sequence[int], known: np.ndarray | None = None) -> Value:
        if known is None or known.dtype.kind not in "fV":
            return Value(np.broadcast_to(np.int32(STILL), shape), known=known)
        numbers = known.astype(np.float32)
        labels = np.where((numbers == 0) | np.isinf(numbers), FREE, STILL).astype(np.int32)
        return Value(labels, known=known)

    def lost(self, values: list[Value]) -> None:
        for v in values:
            self.book.still(v.labels)

    def opened(self, labels: np.ndarray, rows: np.ndarray, role: Role) -> Value:
        return Value(labels)

    def product(self, x, writer, reader, roles) -> Value:
        self.book.same(x.labels, reader)
        return Value(np.broadcast_to(writer, (*x.labels.shape[:-1], writer.shape[-1])))

    def convolution(self, x, equation, writer, reader) -> Value | None:
        params = equation.params
        numbers, groups = params["dimension_numbers"], params["feature_group_count"]
        channel = numbers.lhs_spec[1]
        if groups == 1:
            self.book.same(np.moveaxis(x.labels, channel, -1), reader)
        elif groups == x.labels.shape[channel]:  # each channel by itself: one more factor of it
            each = self._one(np.moveaxis(x.labels, channel, 0).reshape(groups, -1), [1])
            writer = self._times(np.repeat(each, len(writer) // groups), writer)
        else:
            return None
        shape = equation.outvars[0].aval.shape
        wide = [1] * len(shape)
        wide[numbers.out_spec[1]] = -1
        return Value(np.broadcast_to(writer.reshape(wide), shape))

    def elementwise(self, equation: Any, values: list[Any]) -> list[Any] | None:
        """Gains and biases: each element of the weight is a channel that it writes."""
        name = equation.primitive.name
        plain = []
        for v in values:
            if not isinstance(v, View):
                plain.append(v)
                continue
            others = [u for u in values if u is not v]
            if name in ("mul", "div") and v is values[0] and number(others):
                return [v]
            if name == "mul" and number(others):
                return [v]
            found = element_places(v, self.book, "element")
            if found is None:
                return None
            plain.append(Value(found[1]))
        return self.rules[name](equation, plain) if name in self.rules else None

    def _one(self, labels: np.ndarray, axes: Sequence[int]) -> np.ndarray:
        """The label that all elements along some axes have to share."""
        found = labels.max(tuple(axes), keepdims=True, initial=FREE)
        self.book.same(labels, found)
        return np.asarray(found.squeeze(tuple(axes)))

    def _times(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = np.broadcast_arrays(a, b)
        found = np.where((a == FREE) | (b == FREE), FREE, np.maximum(a, b))
        both = (a > 0) & (b > 0)
        if both.any():
            factors, place = distinct(a[both], b[both])
            new = self.book.fresh([len(factors)])
            self.products.append(np.concatenate([new[None], factors.T]))
            found[both] = new[place]
        return np.asarray(found, np.int32)

    def _keep(self, equation, values):
        to = equation.outvars[0].aval.dtype
        return (
            [Value(values[0].labels)] if np.issubdtype(to, np.inexact) or to.kind == "V" else None
        )

    def _join(self, equation, values):
        a, b = np.broadcast_arrays(*(v.labels for v in values))
        self.book.same(a, b)
        return [Value(np.asarray(np.maximum(a, b)))]

    def _compare(self, equation, values):
        if len(values) == 2:
            self._join(equation, values)
        return [self.value(equation.outvars[0].aval.shape)]

    def _divide(self, equation, values):
        self.book.still(values[1].labels)
        return [Value(np.broadcast_arrays(values[0].labels, values[1].labels)[0])]

    def choice(self, which: Value, cases: list[Value]) -> Value:
        self.book.still(which.labels)
        labels = cases[0].labels
        for case in cases[1:]:
            self.book.same(labels, case.labels)
            labels = np.asarray(np.maximum(labels, case.labels))
        return Value(labels)

    def _reduce(self, equation, values):
        params, labels = equation.params, values[0].labels
        if "axes" in params:
            return [Value(self._one(labels, params["axes"]))]
        found = np.expand_dims(self._one(labels, [params["axis"]]), params["axis"])
        return [Value(np.broadcast_to(found, labels.shape))]

    def _windows(self, equation, values):
        """Pooling, over axes along which labels are the same."""
        labels, shape = values[0].labels, equation.outvars[0].aval.shape
        axes = [i for i, size in enumerate(equation.params["window_dimensions"]) if size > 1]
        axes += [i for i, size in enumerate(shape) if size != labels.shape[i] and i not in axes]
        if 0 in labels.shape:
            return None
        found = np.expand_dims(self._one(labels, axes), axes)
        return [Value(np.broadcast_to(found, shape))]

    def _anywhere(self, equation, values):
        """A gather or a slice at unknown places, along axes where labels are the same."""
        x, *indices = values
        self.lost(indices)
        sizes, shape = equation.params["slice_sizes"], x.labels.shape
        axes = [i for i, size in enumerate(sizes) if size != shape[i]]
        found = np.expand_dims(self._one(x.labels, axes), axes)
        out = equation.outvars[0].aval.shape
        numbers = equation.params.get("dimension_numbers")
        if numbers is None:
            return [Value(np.broadcast_to(found, out))]
        if numbers.operand_batching_dims:
            return None
        found = np.broadcast_to(found, sizes).squeeze(numbers.collapsed_slice_dims)
        wide = [1] * len(out)
        for place, size in zip(numbers.offset_dims, found.shape, strict=True):
            wide[place] = size
        return [Value(np.broadcast_to(found.reshape(wide), out))]

    def _dot(self, equation, values):
        """A product of two values: sums over products of labels."""
        x, y = pairs(*(v.labels for v in values), equation.params["dimension_numbers"])
        if not ((x > 0).any() and (y > 0).any()):
            x, y = (self._one(a, [a.ndim - 1])[..., None] for a in (x, y))
        if np.prod(np.broadcast_shapes(x.shape, y.shape)) > MOST_LABELS:
            return None
        found = self._times(x, y)
        return [Value(self._one(found, [found.ndim - 1]))]


def settle(scales: Scales) -> np.ndarray:
    """i32[labels]: the class of each label, 0 of what must stay.

    Of a product whose factors could both move, one stays: the one that was made first.
    """
    book = scales.book
    book.settle()
    triples = np.concatenate([np.zeros((3, 0), np.int32), *scales.products], 1)
    while True:
        classes = book.classes()
        made, one, other = classes[triples]
        book.same(triples[0][one == 0], triples[2][one == 0])
        book.same(triples[0][other == 0], triples[1][other == 0])
        for factor in triples[1:]:
            book.still(factor[made == 0])
        if (book.classes() == classes).all():
            open_ = (one > 0) & (other > 0)
            if not open_.any():
                return classes
            book.still(triples[1:, open_].min(0))
