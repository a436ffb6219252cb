"""Small arrays of one dtype share a chunk, a pool: what a chunk costs is paid once for all of them.

An entry of the index, [name, dtype, shape, how], says

    how = 2   the array begins a pool, and ends the one of its kind that is open, if there is one
          1   its values follow those of the arrays before it in the open pool of its kind

and of a kind are arrays of one dtype, those of a multiple of 16 values apart from the others: so
few pools are open at a time. A pool is one chunk of at most chunk_nbytes, of all its values one
after another; it lies where it ended, those that are open at the end come last, in the order in
which they began. Where a chunk is, and what is in it, follows from the index alone. Empty arrays
share nothing, for they have no chunk.

Of a delta, a pool is coded against the same arrays of the base, one after another.
"""

import math
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from jaxcomp.base import CorruptStream
from jaxcomp.io.tensor_rows import Row

ALONE, FOLLOWS, BEGINS = 0, 1, 2
# Values in a row of a pool, at least, where arrays are whole rows: then each may have its tables.
NARROW = 16
# Pools that are kept while arrays are taken in an order that is not the file's.
HELD = 8
Kind = tuple[str, bool]


class Pools:
    """Rows in the order of the file, each with its chunks as soon as they are known."""

    def __init__(self, chunk_nbytes: int):
        self.rows: list[Row] = []
        self.chunks = 0  # that are placed
        self._chunk_nbytes = chunk_nbytes
        self._open: dict[Kind, list[int]] = {}  # the places of its rows

    def add(self, row: Row, how: int) -> list[int]:
        """Take the next row; returns the places of the rows of a pool that it ends, or none.

        CorruptStream for one that cannot be in a pool, or in this one.
        """
        if how == ALONE:
            self.rows.append(row._replace(first=self.chunks))
            self.chunks += row.chunks
            return []
        if not self.has_room(row, how):
            raise CorruptStream(f"expected a chunk with room for {row.label}, got none; damaged?")
        key = kind_of(row)
        ended = self._end(key) if how == BEGINS else []
        members = self._open.setdefault(key, [])
        start = self._stop(members)
        members.append(len(self.rows))
        self.rows.append(row._replace(first=-1, step=row.size, start=start, pool=row.size))
        return ended

    def has_room(self, row: Row, how: int) -> bool:
        """Whether an array can begin a pool, or follow in the open one."""
        members = [] if how == BEGINS else self._open.get(kind_of(row), [])
        if not row.size or (how == FOLLOWS and not members):
            return False
        return (self._stop(members) + row.size) * row.dtype.itemsize <= self._chunk_nbytes

    def end(self) -> list[list[int]]:
        """All pools that are open end: the places of the rows of each."""
        return [self._end(kind) for kind in list(self._open)]

    def _stop(self, members):
        last = self.rows[members[-1]] if members else None
        return 0 if last is None else last.start + last.size

    def _end(self, kind):
        members = self._open.pop(kind, [])
        for place in members:
            placed = {"first": self.chunks, "pool": self._stop(members)}
            self.rows[place] = self.rows[place]._replace(**placed)
        self.chunks += bool(members)
        return members


def kind_of(row: Row) -> Kind:
    """Which pools an array may be in."""
    return row.dtype.name, row.size % NARROW == 0


def common_width(rows: list[Row]) -> int:
    """Values in a row of the matrix that a pool is coded as; 1: its arrays have none in common."""
    width = 0
    for row in rows:
        last = row.shape[-1] if row.shape else 1
        whole = len(row.shape) > 1 and last < NARROW  # a kernel
        width = math.gcd(width, row.size // row.shape[0] if whole else last)
    if width < NARROW:
        width = math.gcd(*(row.size for row in rows))
        while width > 2 * NARROW and width % 2 == 0:
            width //= 2
    return width if width >= NARROW else 1


class Turns:
    """When the pools of rows are decoded and let go, as rows are taken in an order, twice over:
    by who decodes ahead, and by who takes what is decoded."""

    def __init__(self, rows: list[Row]):
        self._left = Counter(row.first for row in rows if row.pool)
        self._held: dict[int, None] = {}

    def needed(self, row: Row) -> bool:
        """Whether the pool of the next row has to be decoded."""
        return row.first not in self._held

    def take(self, row: Row) -> list[int]:
        """The next row is taken; returns the chunks of pools that are let go."""
        self._held[row.first] = self._held.pop(row.first, None)
        self._left[row.first] -= 1
        gone = [] if self._left[row.first] else [row.first]
        gone += [first for first in list(self._held)[:-HELD] if first not in gone]
        for first in gone:
            del self._held[first]
        return gone


class Recent:
    """The last results of a function of a number; each is computed once, whoever asks meanwhile.
    One that fails is computed again when it is asked for again."""

    def __init__(self, function: Callable[[int], Any], most: int):
        self._function, self._most = function, most
        self._found: dict[int, Future] = {}
        self._lock = threading.Lock()

    def __call__(self, number: int) -> Any:
        with self._lock:
            found = self._found.pop(number, None)
            mine = found is None
            found = self._found[number] = found or Future()
            while len(self._found) > self._most:
                del self._found[next(iter(self._found))]
        if mine:
            try:
                found.set_result(self._function(number))
            except BaseException as error:
                with self._lock:  # an interrupt, say, says nothing of the next time
                    if self._found.get(number) is found:
                        del self._found[number]
                found.set_exception(error)
        return found.result()
