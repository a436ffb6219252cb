"""Shards of arrays, one file for each process that has some: written apart, read as whole arrays.

Each file is one of tensors (tensor_rows.py: chunks with a CRC32 and tables each, read from the
end), with an array for each shard. Its index has, beside "arrays",

    {"kind": "shards", "shards_version": 1, "process": 0, "processes": 2,
     "leaves": [[name, dtype, shape, key], ...], "shards": [[leaf, start, ...], ...]}

All files of a save name the same leaves, the arrays that were saved; "shards" says of each array
of this file which leaf it is cut from and where it starts. Shards are the cells of a grid, each in
one file. "key" is null, or the implementation of random keys, of which the data is stored.

Any box of a leaf is put together from the shards that overlap it, wherever they lie: files know
nothing of devices. Of a shard those chunks are read that hold the rows in question.
"""

import contextlib
import itertools
import math
import operator
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from io import BufferedIOBase
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.base import CorruptStream, JaxcompError, UnsupportedInput
from jaxcomp.io.tensor_reader import Tensors
from jaxcomp.io.tensor_rows import CHUNK_NBYTES, RANK_LIMIT, Row
from jaxcomp.io.tensor_writer import TensorWriter, workers
from jaxcomp.io.tree_nodes import dtype_of

VERSION = 1
UNLIMITED = 1 << 62  # the caller has compared sizes with its own limit


class Box(NamedTuple):
    """Where a part of an array begins, and its shape."""

    start: tuple[int, ...]
    shape: tuple[int, ...]

    def within(self, other: "Box") -> tuple[slice, ...]:
        """Its slices of an array that is `other`."""
        pairs = zip(self.start, self.shape, other.start, strict=True)
        return tuple(slice(a - origin, a - origin + n) for a, n, origin in pairs)


class Leaf(NamedTuple):
    """One array: how it is called, what it is, the implementation if it is of random keys, and the
    shards that are at hand: (where, values)."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    key: str | None
    shards: list[tuple[Box, Any]]


class Shards:
    """Files of one save, open: `leaves` by their names, and read(name, boxes)."""

    def __init__(self, files: list[Tensors], bases: list[Tensors | None], pool: Executor):
        self.nbytes = sum(file.nbytes for file in [*files, *bases] if file is not None)
        both = zip(files, bases, strict=True)
        self._lacking = [file for file, base in both if base is None and "base" in file.header]
        self._pool = pool
        self.leaves: dict[str, Leaf] = {}
        for file in files:
            _believe(file, self.leaves)
        for leaf in self.leaves.values():
            _check_grid(leaf)

    def read(self, name: str, boxes: list[Box]) -> list[np.ndarray]:
        """These boxes of a leaf; zeros where one reaches beyond it. Threads decode chunks, each
        once; CorruptStream names the leaf."""
        leaf = self.leaves[name]
        if any(file is x for _, (file, _) in leaf.shards for x in self._lacking):
            raise CorruptStream(
                f"{name}: expected the whole file that it is coded against beside its own, got "
                "none; copy all files of the checkpoint"
            )
        whole = Box((0,) * len(leaf.shape), leaf.shape)
        out = [
            (np.empty if overlap(box, whole) == box else np.zeros)(box.shape, leaf.dtype)
            for box in boxes
        ]

        def fill(cell, file, row, k, hits):
            values, at = file.flat(row, k * row.step, min(row.size, (k + 1) * row.step)), 0
            for part in _parts(cell, row, k):
                end = at + math.prod(part.shape)
                for box, x in hits:
                    if both := overlap(box, part):
                        some = values[at:end].reshape(part.shape)
                        x[both.within(box)] = some[both.within(part)]
                at = end

        try:
            # All jobs wait at once: they hold no values.
            for _ in self._pool.map(lambda job: fill(*job), _jobs(leaf, boxes, out)):
                pass
        except CorruptStream as error:
            raise CorruptStream(f"{name}: {error}") from error
        return out


def write_shards(
    file: BufferedIOBase,
    leaves: list[Leaf],
    process: int,
    processes: int,
    *,
    base: Tensors | None = None,
    chunk_nbytes: int = CHUNK_NBYTES,
) -> int:
    """What one process has of a tree, to a file; returns its bytes. The list of shards of every
    leaf is emptied as they are written. base: an earlier such file, against which to code."""
    table = [[leaf.name, leaf.dtype.name, list(leaf.shape), leaf.key] for leaf in leaves]
    places = []
    with TensorWriter(file, base=base, chunk_nbytes=chunk_nbytes) as writer:
        for number, leaf in enumerate(leaves):
            while leaf.shards:
                box, values = leaf.shards.pop(0)
                writer.add(_label(leaf, box), values)
                places.append([number, *box.start])
        index = {"kind": "shards", "shards_version": VERSION, "process": process}
        return writer.finish({**index, "processes": processes, "leaves": table, "shards": places})


@contextlib.contextmanager
def open_shards(
    opener: Callable[[int], BufferedIOBase],
    base_opener: Callable[[int], BufferedIOBase] | None = None,
) -> Iterator[Shards]:
    """All files of one save: opener(process) opens one, and the first says how many there are.

    base_opener(process): the file that one is coded against, FileNotFoundError where there is none.
    """
    with contextlib.ExitStack() as stack:
        files, bases, processes = [], [], 1
        while len(files) < processes:
            try:
                source = stack.enter_context(opener(len(files)))
            except FileNotFoundError as error:
                raise CorruptStream(
                    f"expected shards of {processes} processes, got those of {len(files)}; copy "
                    f"the whole checkpoint ({error})"
                ) from error
            base = None
            with contextlib.suppress(FileNotFoundError):
                base = stack.enter_context(base_opener(len(files))) if base_opener else None
            if base is not None:
                base = stack.enter_context(Tensors(base, max_nbytes=UNLIMITED))
            bases.append(base)
            file = stack.enter_context(Tensors(source, base=base, max_nbytes=UNLIMITED))
            wanted = len(files), processes if files else file.index.get("processes")
            found = file.index.get("process"), file.index.get("processes")
            if file.index.get("shards_version") != VERSION:
                raise UnsupportedInput(
                    f"expected shards of version {VERSION}, got "
                    f"{file.index.get('shards_version')!r:.40}; install the jaxcomp that wrote them"
                )
            if found != wanted or type(found[1]) is not int or not found[0] < found[1] < 1 << 20:
                raise CorruptStream(
                    f"expected the file of process {wanted[0]} of {wanted[1]!r:.20}, got "
                    f"{found[0]!r:.20} of {found[1]!r:.20}; copy the whole checkpoint"
                )
            processes = found[1]
            files.append(file)
        yield Shards(files, bases, stack.enter_context(ThreadPoolExecutor(workers(None))))


def check_shards(file: Tensors) -> None:
    """CorruptStream for a file of shards whose index does not fit them; of one process alone, also
    where they do not make whole arrays."""
    leaves: dict[str, Leaf] = {}
    _believe(file, leaves)
    if file.index.get("processes") == 1:
        for leaf in leaves.values():
            _check_grid(leaf)


def box_of(index: tuple[slice, ...], shape: tuple[int, ...]) -> Box:
    """The box of what jax calls an index of a shard: slices of step 1."""
    ends = [s.indices(n)[:2] for s, n in zip(index, shape, strict=True)]
    return Box(tuple(a for a, _ in ends), tuple(b - a for a, b in ends))


def overlap(a: Box, b: Box) -> Box | None:
    """What two boxes have in common."""
    start = tuple(map(max, a.start, b.start))
    stops = [[p + n for p, n in zip(*box, strict=True)] for box in (a, b)]
    shape = tuple(stop - p for p, stop in zip(start, map(min, *stops), strict=True))
    return None if any(n <= 0 for n in shape) else Box(start, shape)


def _jobs(leaf: Leaf, boxes: list[Box], out: list[np.ndarray]) -> Iterator[tuple[Any, ...]]:
    """(shard, its file and row, one of its chunks, the boxes that may have some of it)."""
    for cell, (file, row) in leaf.shards:
        hits = [(box, x) for box, x in zip(boxes, out, strict=True) if overlap(box, cell)]
        for k in range(row.chunks if hits else 0):
            if any(overlap(box, part) for part in _parts(cell, row, k) for box, _ in hits):
                yield cell, file, row, k, hits


def _parts(cell: Box, row: Row, k: int) -> list[Box]:
    """Where the values of a chunk belong."""
    parts = in_boxes(row.shape, k * row.step, min(row.size, (k + 1) * row.step))
    return [Box(tuple(map(operator.add, cell.start, part.start)), part.shape) for part in parts]


def in_boxes(shape: tuple[int, ...], start: int, stop: int) -> list[Box]:
    """The boxes that values start to stop of an array make, in C order: a few for each axis."""
    if not shape:
        return [Box((), ())]
    inner, boxes = math.prod(shape[1:]), []
    while start < stop:
        i, low = divmod(start, inner)
        rows = 0 if low else (stop - start) // inner
        if rows:
            boxes.append(Box((i,) + (0,) * (len(shape) - 1), (rows, *shape[1:])))
            start += rows * inner
        else:
            high = min(inner, low + stop - start)
            within = in_boxes(shape[1:], low, high)
            boxes += [Box((i, *box.start), (1, *box.shape)) for box in within]
            start += high - low
    return boxes


def _label(leaf, box):
    """How a shard is called in its file."""
    if box.shape == leaf.shape:
        return leaf.name
    ranges = [f"{a}:{a + n}" for a, n in zip(*box, strict=True)]
    return f"{leaf.name}[{','.join(ranges)}]"


def _believe(file, leaves):
    """Add what a file says of leaves and shards; CorruptStream for what no save wrote."""
    try:
        names = []
        for name, dtype, shape, key in file.index["leaves"]:
            good = isinstance(name, str) and (key is None or isinstance(key, str))
            good = good and all(type(n) is int and 0 <= n < 1 << 48 for n in shape)
            if not good or len(shape) > RANK_LIMIT or math.prod(filter(None, shape)) >= 1 << 56:
                raise ValueError(f"a leaf {name!r:.40} of {shape!r:.40}")
            leaf = Leaf(name, dtype_of(dtype), tuple(shape), key, [])
            if leaves.setdefault(name, leaf)._replace(shards=[]) != leaf:
                raise ValueError(f"another {name!r:.80} than in other files")
            names.append(name)
        if len(set(names)) != len(names) or len(names) != len(leaves):
            raise ValueError("other leaves than in other files, or one twice")
        for row, (number, *start) in zip(file.rows, file.index["shards"], strict=True):
            if type(number) is not int or not 0 <= number < len(names):
                raise ValueError(f"a shard of leaf {number!r:.20}")
            leaf = leaves[names[number]]
            good = row.dtype == leaf.dtype and len(start) == len(leaf.shape) == len(row.shape)
            if not good or not all(type(n) is int and 0 <= n < 1 << 48 for n in start):
                raise ValueError(f"a shard of {leaf.name!r:.80} at {start!r:.80}")
            leaf.shards.append((Box(tuple(start), row.shape), (file, row)))
    except JaxcompError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptStream(f"expected what a save says of its shards, got {error}") from None


def _check_grid(leaf):
    """Every value of a leaf is in one shard: they are all cells of a grid."""
    cells = {box.start: box.shape for box, _ in leaf.shards}
    cuts = []  # along each axis, {where a cell starts: how far it goes}
    for axis, n in enumerate(leaf.shape):
        starts = sorted({start[axis] for start in cells})
        cuts.append({a: b - a for a, b in itertools.pairwise([*starts, n])})
    good = len(cells) == len(leaf.shards) == math.prod(map(len, cuts))
    good = good and all(0 in cut for cut in cuts)
    good = good and all(
        all(cut[a] == n for cut, a, n in zip(cuts, *cell, strict=True)) for cell in cells.items()
    )
    if not good and 0 not in leaf.shape:  # of an empty array nothing is missing
        raise CorruptStream(
            f"{leaf.name}: expected shards that make {leaf.shape}, got {len(leaf.shards)}: "
            f"{str(sorted(cells.items())):.80}; a file is of another save"
        )
