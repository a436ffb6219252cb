"""An open file of tensors: one array, a slice of it or all, decoded by several threads.

What is asked for is read, and nothing else; what a file claims is compared with the caller's limit
before it is allocated.
"""

import contextlib
import functools
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BufferedIOBase
from typing import Any

import numpy as np

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.coding.bounded_chunk import decode_any
from jaxcomp.coding.chunked import Reader
from jaxcomp.coding.tensor_chunk import chunk_kind
from jaxcomp.io.tensor_index import read_rows
from jaxcomp.io.tensor_pools import Recent, Turns
from jaxcomp.io.tensor_rows import EXPANSION, PLENTY, Row, check_room
from jaxcomp.io.tensor_writer import AHEAD, workers

KEPT = 2  # pools at least of the last arrays that were read: others in them are likely next


class Tensors:
    """An open file: names, rows (name, dtype, shape) and read(name). Close it, or use a context."""

    def __init__(
        self,
        path: str | os.PathLike[str] | BufferedIOBase,
        *,
        base: "str | os.PathLike[str] | Tensors | None" = None,
        max_nbytes: int | None = None,
        threads: int | None = None,
    ):
        self._threads, self._lock = workers(threads), threading.Lock()
        with contextlib.ExitStack() as stack:
            self._file = stack.enter_context(Reader(path))
            self.rows = read_rows(self._file)
            self._pools: dict[int, list[Row]] = {}  # of each shared chunk
            for row in self.rows:
                if row.pool:
                    self._pools.setdefault(row.first, []).append(row)
            self._recent = Recent(self._decode_pool, max(KEPT, self._threads))
            self._by_name = {row.name: row for row in self.rows if row.name is not None}
            self._base = opened(base, stack)
            self.header, self.index = self._file.header, self._file.index
            self.nbytes = self._file.nbytes  # of the whole file
            self.chunks = len(self._file.lengths)
            both = self.nbytes + (0 if self._base is None else self._base.nbytes)
            self.max_nbytes = max(PLENTY, EXPANSION * both) if max_nbytes is None else max_nbytes
            self._stack = stack.pop_all()

    def __enter__(self) -> "Tensors":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Close the files that were opened here."""
        self._stack.close()

    @property
    def names(self) -> list[str]:
        """The names of all arrays, in the order of the file."""
        return list(self._by_name)

    def row(self, name: str) -> Row:
        """dtype and shape of an array. UnsupportedInput for other names."""
        if name not in self._by_name:
            near = [known for known in self._by_name if name in known][:5] or self.names[:5]
            raise UnsupportedInput(
                f"expected the name of an array, such as {', '.join(map(ascii, near)) or 'none'}, "
                f"got {ascii(name)}; jaxcomp info lists them"
            )
        return self._by_name[name]

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> np.ndarray:
        """An array, or x[start:stop] of it, for which no other chunks are read."""
        row = self.row(name)
        if start is None and stop is None:
            return self.read_row(row)
        if not row.shape:
            raise UnsupportedInput(f"expected an array with rows, got {row.label} of shape ()")
        first, last, _ = slice(start, stop).indices(row.shape[0])
        return self.read_row(row, first, max(first, last))

    def read_row(self, row: Row, first: int = 0, last: int | None = None) -> np.ndarray:
        """The same for one of `rows`, with 0 <= first <= last."""
        shape = row.shape if last is None else (last - first, *row.shape[1:])
        each = row.size // row.shape[0] if row.shape and row.shape[0] else 0
        start, size = first * each, int(np.prod(shape, dtype=np.int64))
        check_room(size * row.dtype.itemsize, self.max_nbytes)
        out = np.empty(shape, row.dtype)
        threads = self._threads if row.chunks > 1 else 1
        for _ in in_order(self._fill, _jobs(row, start, start + size, out), threads):
            pass
        return out

    def arrays(self, rows: list[Row]) -> Iterator[np.ndarray]:
        """The arrays of these rows, one after another, the next ones being decoded meanwhile.

        Those that share a chunk share its memory, where all of them are asked for.
        """
        check_room(sum(row.nbytes for row in rows), self.max_nbytes)
        turns, begun = Turns(rows), deque()
        asked = Counter(row.first for row in rows if row.pool)
        once = len({(row.first, row.start) for row in rows if row.pool}) == asked.total()

        def jobs():
            for row in rows:
                if row.pool:
                    if turns.needed(row):
                        yield self._decode_pool, row.first
                    turns.take(row)
                elif row.size:
                    begun.append(np.empty(row.shape, row.dtype))
                    for job in _jobs(row, 0, row.size, begun[-1]):
                        yield self._fill, *job

        done, pools = in_order(_call, jobs(), self._threads), _Taken(rows)
        for row in rows:
            if row.pool:
                values = pools.take(row, done).reshape(row.shape)
                whole = once and asked[row.first] == len(self._pools[row.first])
                yield values if whole else values.copy()
                continue
            for _ in range(row.chunks):
                next(done)
            yield begun.popleft() if row.size else np.empty(row.shape, row.dtype)

    def parts(
        self, rows: list[Row], function: Callable[[Row, np.ndarray], Any] | None = None
    ) -> Iterator[tuple[Row, Any]]:
        """(row, values of one chunk that it has) of all of them in order, a few decoded ahead.

        function(row, values): applied by the threads, to give something else than the values; of
        arrays that share a chunk, by who takes the results.
        """
        turns = Turns(rows)

        def jobs():
            for row in rows:
                if row.pool:
                    if turns.needed(row):
                        yield self._decode_pool, row.first
                    turns.take(row)
                else:
                    for at in range(0, row.size, row.step):
                        yield self._part, row, at, function

        done, pools = in_order(_call, jobs(), self._threads), _Taken(rows)
        with contextlib.closing(done):
            for row in rows:
                if row.pool:
                    values = pools.take(row, done)
                    yield row, values if function is None else function(row, values)
                else:
                    for _ in range(row.chunks):
                        yield row, next(done)

    def kinds(self, row: Row) -> dict[str, int]:
        """How the chunks of an array were coded: {kind: chunks}."""
        found: dict[str, int] = {}
        for k in range(row.first, row.first + row.chunks):
            kind = chunk_kind(self._file.chunk(k))
            found[kind] = found.get(kind, 0) + 1
        return found

    def coded_nbytes(self, row: Row) -> int:
        """Bytes of an array in the file; of a chunk that it shares, by the values that are its."""
        if row.pool:
            whole = self._file.lengths[row.first]
            return whole * (row.start + row.size) // row.pool - whole * row.start // row.pool
        return sum(self._file.lengths[row.first : row.first + row.chunks])

    def verify(self, *, decode: bool = False, progress: Callable[[int], None] | None = None) -> int:
        """Read every chunk and compare its CRC32; decode: also decode it. Returns how many.

        Raises CorruptStream for the first that is damaged. Memory is that of a few chunks; the
        limit holds for what is decoded, which takes time.
        """
        if decode:
            check_room(sum(row.nbytes for row in self.rows), self.max_nbytes)
        jobs = (
            (row, at, decode)
            for row in self.rows
            for at in range(0, row.size, row.step)
            if not row.start  # one of each chunk
        )
        count = 0
        for nbytes in in_order(self._verify, jobs, self._threads):
            count += 1
            if progress is not None:
                progress(nbytes)
        return count

    def like(self, row: Row) -> Row | None:
        """The array of this file with that name, dtype and shape, if there is one."""
        found = self._by_name.get(row.name)
        same = found is not None and (found.dtype, found.shape) == (row.dtype, row.shape)
        return found if same else None

    def flat(self, row: Row, start: int, stop: int) -> np.ndarray:
        """Values start to stop of an array, flat, decoded in the calling thread."""
        out = np.empty(stop - start, row.dtype)
        for job in _jobs(row, start, stop, out):
            self._fill(*job)
        return out

    @functools.cached_property
    def sha256(self) -> str:
        """Of the whole file, in hexadecimal digits: the name of a base."""
        return self._file.sha256()

    def _fill(self, row: Row, start: int, stop: int, out: np.ndarray, origin: int) -> None:
        """out[start - origin : stop - origin] from the one chunk that has these values."""
        into = out[start - origin : stop - origin]
        if row.pool:
            into[:] = self._recent(row.first)[row.start + start : row.start + stop]
            return
        at = start // row.step * row.step
        count = min(row.step, row.size - at)
        if stop - start == count:
            self._decode(row, at, into)
        else:
            into[:] = self._decode(row, at, None)[start - at : stop - at]

    def _part(self, row: Row, at: int, function: Any) -> Any:
        values = self._decode(row, at, None)
        return values if function is None else function(row, values)

    def _verify(self, row: Row, at: int, decode: bool) -> int:
        count = row.pool or min(row.step, row.size - at)
        if decode and row.pool:
            self._decode_pool(row.first)
        elif decode:
            self._decode(row, at, None)
        else:
            self._file.chunk(row.first + at // row.step)
        return count * row.dtype.itemsize

    def _decode(self, row: Row, at: int, out: np.ndarray | None) -> np.ndarray:
        count = min(row.step, row.size - at)
        return self._decode_chunk(
            row.first + at // row.step, row, count, [(row, at, at + count)], out
        )

    def _decode_pool(self, first: int) -> np.ndarray:
        """The values of a chunk that arrays share."""
        rows = self._pools[first]
        inside = [(row, 0, row.size) for row in rows]
        return self._decode_chunk(first, rows[0], rows[0].pool, inside, None)

    def _decode_chunk(self, number, row, count, inside, out):
        """`count` values like those of row. inside: which values of which rows they are."""
        data, before = self._file.chunk(number), None
        if "base" in self.header and chunk_kind(data).startswith("delta"):
            base = self._checked_base()
            likes = [(base.like(row), start, stop) for row, start, stop in inside]
            if all(like is not None for like, _, _ in likes):
                before = np.concatenate([base.flat(*like) for like in likes])
        return decode_any(data, row.dtype, count, base=before, out=out)

    def check_target(self, target: Any) -> None:
        """UnsupportedInput where a delta at target would replace this base, or the base of it."""
        named = isinstance(target, (str, os.PathLike))
        if named and self._file.is_at(target):
            raise UnsupportedInput(
                f"{target} is the base, without which the delta cannot be read; write it elsewhere"
            )
        if self._base is not None:
            self._base.check_target(target)

    def _checked_base(self) -> "Tensors":
        """The base, once its bytes were found to be those that the file names."""
        named = self.header["base"]
        if self._base is None:
            raise UnsupportedInput(
                f"a delta, expected base= (--base), the file of SHA-256 {named!r:.70}, got none"
            )
        with self._lock:  # one thread reads it all, the others wait
            found = self._base.sha256
        if found != named:
            raise CorruptStream(
                f"expected the base of SHA-256 {named!r:.70}, got {found}; pass the "
                "file that the delta was made against"
            )
        return self._base


class _Taken:
    """Pools that were decoded in turn, and are held while some of their arrays are to come."""

    def __init__(self, rows: list[Row]):
        self._turns, self._values = Turns(rows), {}

    def take(self, row: Row, done: Iterator[np.ndarray]) -> np.ndarray:
        """The values of the next row, flat, which are not to be written to."""
        if self._turns.needed(row):
            self._values[row.first] = next(done)
        found = self._values[row.first][row.start : row.start + row.size]
        for first in self._turns.take(row):
            del self._values[first]
        return found


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def in_order(
    function: Callable[..., Any], jobs: Iterable[tuple[Any, ...]], threads: int
) -> Iterator[Any]:
    """function(*job) of every job in order, by threads, a few ahead of who takes the results."""
    if threads == 1:
        yield from (function(*job) for job in jobs)
        return
    waiting: deque = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for job in jobs:
                waiting.append(pool.submit(function, *job))
                if len(waiting) >= AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def opened(base: Any, stack: contextlib.ExitStack) -> Any:
    """A base as an open file; one that was given by its path closes with the stack."""
    if base is None or isinstance(base, Tensors):
        return base
    found = stack.enter_context(Tensors(base))
    if "base" in found.header:
        raise UnsupportedInput(
            f"{base}: expected a base that is whole, got a delta itself; take the one that it is "
            "against, or pass open_tensors(path, base=...)"
        )
    return found


def _jobs(row: Row, start: int, stop: int, out: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """Arguments of _fill for values start to stop of an array, one for each chunk."""
    flat = out.reshape(-1)
    for at in range(start // row.step * row.step, stop, row.step):
        yield row, max(start, at), min(stop, at + row.step), flat, start
