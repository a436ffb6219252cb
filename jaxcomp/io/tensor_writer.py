"""Arrays to the chunks of a file, coded by several threads and written in order.

At most AHEAD chunks for each thread are in the making, and a pool of small arrays for each dtype is
open: a checkpoint of any size is written in the memory of its largest array that is not on a disk
already, and some chunks.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BufferedIOBase
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.base import UnsupportedInput
from jaxcomp.coding.chunked import Writer
from jaxcomp.coding.tensor_chunk import encode_chunk, gain_alone
from jaxcomp.io.tensor_index import entry
from jaxcomp.io.tensor_pools import ALONE, BEGINS, FOLLOWS, Kind, Pools, common_width, kind_of
from jaxcomp.io.tensor_rows import (
    CHUNK_LIMIT,
    CHUNK_NBYTES,
    CODEC,
    LEAST,
    VERSION,
    Row,
    make_row,
)

AHEAD = 2
# Bytes of an array up to which it shares a chunk, and up to which it does in any case; between them
# it has its own where that saves a share of its size that is worth the time. With all above 128 KiB
# alone, MiniLM in bfloat16 takes 0.02 % less and a quarter more time, a resnet 0.5 % and thrice the
# time, a state of Adam 0.4 % and a fifth more.
SHARED, ALWAYS_SHARED = 3 << 17, 1 << 16
WORTH_A_CHUNK = 0.02
Encode = Callable[..., bytes]


def workers(threads: int | None) -> int:
    """How many threads: as said, or one for each core and at least two."""
    if threads is not None and threads < 1:
        raise UnsupportedInput(f"expected threads of at least 1, got {threads}; leave it out")
    return threads or max(2, os.cpu_count() or 2)


class TensorWriter:
    """Rows to an open binary file, in the order of `add`, then `finish`. A context: it has threads.

    base: the open file (io.open_tensors) of a previous checkpoint; what has the name, dtype and
    shape of one of its arrays is coded against it where that is smaller.
    progress: called with the bytes of each chunk that is written.
    """

    def __init__(
        self,
        file: BufferedIOBase,
        *,
        base: Any = None,
        threads: int | None = None,
        chunk_nbytes: int = CHUNK_NBYTES,
        progress: Callable[[int], None] | None = None,
    ):
        if not LEAST <= chunk_nbytes <= CHUNK_LIMIT:
            raise UnsupportedInput(
                f"expected chunk_nbytes of {LEAST} to {CHUNK_LIMIT}, got {chunk_nbytes}; leave it"
            )
        header = {"tensors_version": VERSION, "chunk_nbytes": chunk_nbytes}
        if base is not None:
            header["base"] = base.sha256
        self._writer, self._base, self._progress = Writer(file, CODEC, header), base, progress
        self._chunk_nbytes, self._pools = chunk_nbytes, Pools(chunk_nbytes)
        self._entries: list[list[Any]] = []
        self._small: dict[Kind, _Pool] = {}  # that are open
        self._ahead = AHEAD * workers(threads)
        self._threads = ThreadPoolExecutor(workers(threads))
        self._waiting: deque[tuple[Future, int]] = deque()
        self._names: set[str] = set()
        self.nbytes = 0  # of all arrays
        self._broken: str | None = None  # an array of which not all came

    def __enter__(self) -> "TensorWriter":
        return self

    def __exit__(self, *_: Any) -> None:
        self._threads.shutdown(cancel_futures=True)

    @property
    def rows(self) -> list[Row]:
        """What was added; of pools that are open the chunk is not known."""
        return self._pools.rows

    def add(self, name: str | None, x: Any, *, encode: Encode = encode_chunk) -> None:
        """One array: of NumPy, in memory or mapped, or of jax. encode(chunk, base=) gives bytes."""
        if not getattr(x, "is_fully_addressable", True):
            raise UnsupportedInput(
                f"{name}: expected an array whose shards are all on this host, got one of several "
                "hosts; gather it, or save it through Orbax"
            )
        if isinstance(x, np.ma.MaskedArray):
            raise UnsupportedInput(
                f"{name}: expected an array, got one with a mask; save x.data and x.mask"
            )
        try:
            x = np.asarray(x)
        except (TypeError, ValueError) as error:  # keys of jax.random, ragged lists
            raise UnsupportedInput(f"{name}: expected an array of numbers: {error}") from None
        flat = x.reshape(-1)  # a view, or a copy where x is not in C order

        def parts(step: int) -> Iterator[np.ndarray]:
            yield from (flat[i : i + step] for i in range(0, x.size, step))

        self.add_parts(name, x.dtype, x.shape, parts, encode=encode)

    def add_parts(
        self,
        name: str | None,
        dtype: Any,
        shape: tuple[int, ...],
        parts: Callable[[int], Iterable[np.ndarray]],
        *,
        encode: Encode = encode_chunk,
    ) -> None:
        """One array that comes in pieces: parts(n) gives n flat values at a time, then the rest."""
        row = make_row(name, dtype, shape, 0, self._chunk_nbytes)
        if name is not None:
            if name in self._names:
                raise UnsupportedInput(
                    f"expected a name of its own for each array, got {name} twice; rename one"
                )
            self._names.add(name)
        like = None if self._base is None else self._base.like(row)
        self._broken = row.label  # until all of it is there
        small = 0 < row.nbytes <= min(SHARED, self._chunk_nbytes) and encode is encode_chunk
        how, done = ALONE, 0
        for part in parts(row.step):
            if not 0 < part.size == min(row.step, row.size - done):
                break
            if small and (how := self._how(row, like, part)):
                self._share(part, row, like, how)
            else:
                self._submit(part.nbytes, _encode, part, row, self._base, like, done, encode)
            done += part.size
        else:
            if done == row.size:
                if not how:
                    self._pools.add(row, ALONE)
                self._entries.append(entry(row, how))
                self.nbytes += row.nbytes
                self._broken = None
                return
        raise UnsupportedInput(
            f"{row.label}: expected {row.size} values in parts of {row.step}, got others"
        )

    def finish(self, index: dict[str, Any] | Callable[[], dict[str, Any]]) -> int:
        """Wait for what is in the making, and write the index; returns the bytes of the file.

        index: or a function that gives it, which is called when all chunks are written. Raises
        UnsupportedInput after an array of which not all came: its chunks belong to none.
        """
        if self._broken is not None:
            raise UnsupportedInput(
                f"expected all of {self._broken} before the file ends, got a part; begin it anew"
            )
        for places in self._pools.end():
            self._end(places)
        while self._waiting:
            self._write_one()
        index = index() if callable(index) else index
        return self._writer.finish({"arrays": self._entries, **index})

    def _how(self, row: Row, like: Row | None, part: np.ndarray) -> int:
        """Whether a small array shares a chunk: with others that have a base, where it has one."""
        if row.nbytes > ALWAYS_SHARED:
            values = part.astype(row.dtype, copy=False)  # big-endian becomes little
            if gain_alone(values.reshape(row.shape)) > WORTH_A_CHUNK:
                return ALONE
        found = self._small.get(kind_of(row))
        alike = found is not None and (found.likes[0] is None) == (like is None)
        return FOLLOWS if alike and self._pools.has_room(row, FOLLOWS) else BEGINS

    def _share(self, part: np.ndarray, row: Row, like: Row | None, how: int) -> None:
        """Keep a copy of an array until its pool ends: part may be of what is much larger."""
        self._end(self._pools.add(row, how))
        found = self._small.setdefault(kind_of(row), _Pool([], []))
        found.parts.append(np.array(part, row.dtype).reshape(-1))
        found.likes.append(like)

    def _end(self, places: list[int]) -> None:
        """The chunk of a pool that ends, if one does."""
        if places:
            rows = [self._pools.rows[place] for place in places]
            pool = self._small.pop(kind_of(rows[0]))
            nbytes = sum(row.nbytes for row in rows)
            self._submit(nbytes, _encode_pool, pool, rows, self._base)

    def _submit(self, nbytes: int, *job: Any) -> None:
        while len(self._waiting) >= self._ahead:
            self._write_one()
        self._waiting.append((self._threads.submit(*job), nbytes))

    def _write_one(self) -> None:
        job, nbytes = self._waiting.popleft()
        self._writer.add(job.result())
        if self._progress is not None:
            self._progress(nbytes)


class _Pool(NamedTuple):
    """The values of an open pool, and what each of its arrays is in the base."""

    parts: list[np.ndarray]
    likes: list[Row | None]


def _encode_pool(pool, rows, base) -> bytes:
    before = None
    if pool.likes[0] is not None:
        before = np.concatenate([base.flat(like, 0, like.size) for like in pool.likes])
    whole = np.concatenate(pool.parts).reshape(-1, common_width(rows))
    groups = np.array([row.size for row in rows]) // whole.shape[1]
    return encode_chunk(whole, base=before, groups=groups)


def _encode(part, row, base, like, start, encode) -> bytes:
    part = np.ascontiguousarray(part).astype(row.dtype, copy=False)
    before = None if like is None else base.flat(like, start, start + part.size)
    return encode(part.reshape(row.block), base=before)
