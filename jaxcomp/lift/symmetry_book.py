"""Labels of values and weights: which elements move together, and which must stay as they are.

A transformation of weights moves elements of values along. A label says which channel an element
moves with; what an operation needs to be equal is written down as a pair of labels, and classes are
the connected parts of what was written.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

STILL = 0  # the label of what no transformation of weights may change
FREE = -1  # of zeros and infinities, which every positive scale leaves as they are


class Value(NamedTuple):
    """Labels of an array, and what else has to be known of it.

    labels  i32, of the array's shape
    ids     u64, for rotations only: elements of one label and one id are equal numbers; those of
            one id and other labels are entries of one vector
    known   the numbers, of what depends on no argument, or None
    note    for rotations only: what was done to the vectors
    """

    labels: np.ndarray
    ids: np.ndarray | None = None
    known: np.ndarray | None = None
    note: Any = None

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "Value":
        """The value after an operation that only moves elements."""
        parts = (None if x is None else function(x) for x in self[:3])
        return Value(*parts, self.note)

    @property
    def moves(self) -> bool:
        return bool((self.labels > 0).any())


class Role(NamedTuple):
    """The labels of a weight on one side of its products.

    kind    "writer": of what a product makes; "reader": of what it sums over
    axes    of the weight, counted from the right
    labels  i32, the weight's shape with 1 in place of its other axes
    """

    path: str
    kind: str
    axes: tuple[int, ...]
    labels: np.ndarray


class Book:
    """All labels of one walk. shapes: those of the weights by path."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]):
        self.shapes = shapes
        self.count = 1
        self.edges: list[np.ndarray] = []
        self.roles: dict[tuple[str, str, tuple[int, ...]], Role] = {}
        self.uses: dict[str, set[Any]] = {path: set() for path in shapes}

    def fresh(self, shape: Sequence[int]) -> np.ndarray:
        size = int(np.prod(shape, dtype=np.int64))
        self.count += size
        return np.arange(self.count - size, self.count, dtype=np.int32).reshape(shape)

    def same(self, a: np.ndarray, b: np.ndarray | np.generic | int) -> None:
        """Elements of two arrays that have to move together."""
        a, b = np.broadcast_arrays(a, b)
        apart = (a != b) & (a != FREE) & (b != FREE)
        if apart.any():
            self.edges.append(distinct(a[apart], b[apart])[0])

    def still(self, labels: np.ndarray) -> None:
        """Elements that something else sees."""
        self.same(labels[labels > 0], STILL)

    def role(self, path: str, kind: str, axes: Iterable[int]) -> Role:
        """One for all uses of a weight with these axes."""
        shape = self.shapes[path]
        axes = tuple(sorted(a for a in axes if shape[a] > 1))
        key = (path, kind, axes)
        if key not in self.roles:
            rank = len(shape)
            sizes = [shape[i] if i - rank in axes else 1 for i in range(rank)]
            self.roles[key] = Role(*key, self.fresh(sizes))
        return self.roles[key]

    def used(self, path: str, how: Any) -> None:
        """A weight whose uses differ has to stay as it is."""
        self.uses[path].add(how)

    def lost(self, path: str) -> None:
        """A weight that met what does not say how it may change."""
        self.uses[path] |= {None, "lost"}

    def settle(self) -> None:
        """Writes down what has to stay of all uses together."""
        for role in self.roles.values():
            if len(self.uses[role.path]) > 1:
                self.still(role.labels)

    def classes(self) -> np.ndarray:
        """i32[count]: the class of each label, 0 of what must stay."""
        edges = np.concatenate([np.zeros((0, 2), np.int32), *self.edges])
        graph = coo_array((np.ones(len(edges), bool), edges.T), shape=(self.count, self.count))
        found = connected_components(graph, directed=False)[1]
        return np.where(found == found[STILL], 0, found + 1)


def distinct(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the distinct pairs of labels i32[pairs, 2], which of them each pair is)."""
    keys, place = np.unique(a.astype(np.int64) << 32 | b, return_inverse=True)
    pairs = np.stack([keys >> 32, keys & 0xFFFFFFFF], 1).astype(np.int32)
    return pairs, place.reshape(-1)


_salts = itertools.count(1)


def salt() -> np.ndarray:
    """A number that no other operation has."""
    return np.full((), next(_salts), np.uint64)


def mixed(*parts: np.ndarray | np.generic) -> np.ndarray:
    """One id for each tuple of ids: their hash, the finaliser of SplitMix64 (Steele et al. 2014).

    Of 2**24 different tuples two meet with a chance of 1e-5.
    """
    with np.errstate(over="ignore"):
        h = np.full((), 0x9E3779B97F4A7C15, np.uint64)
        for part in parts:
            h = (h ^ part.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            h = h ^ (h >> np.uint64(31))
    return np.asarray(h)
