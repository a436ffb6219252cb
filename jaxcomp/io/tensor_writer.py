"""Arrays to the chunks of a file, coded by several threads and written in order.

At most AHEAD chunks for each thread are in the making: a checkpoint of any size is written in the
memory of its largest array that is not on a disk already, and some chunks.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BufferedIOBase
from typing import Any

import numpy as np

from jaxcomp.base import UnsupportedInput
from jaxcomp.coding.chunked import Writer
from jaxcomp.coding.tensor_chunk import encode_chunk
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
        self._chunk_nbytes, self._next = chunk_nbytes, 0
        self._ahead = AHEAD * workers(threads)
        self._pool = ThreadPoolExecutor(workers(threads))
        self._waiting: deque[tuple[Future, int]] = deque()
        self._names: set[str] = set()
        self.rows: list[Row] = []
        self.nbytes = 0  # of all arrays

    def __enter__(self) -> "TensorWriter":
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown(cancel_futures=True)

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
        row = make_row(name, dtype, shape, self._next, self._chunk_nbytes)
        if name is not None:
            if name in self._names:
                raise UnsupportedInput(
                    f"expected a name of its own for each array, got {name} twice; rename one"
                )
            self._names.add(name)
        like = None if self._base is None else self._base.like(row)
        done = 0
        for part in parts(row.step):
            if not 0 < part.size == min(row.step, row.size - done):
                break
            while len(self._waiting) >= self._ahead:
                self._write_one()
            job = self._pool.submit(_encode, part, row, self._base, like, done, encode)
            self._waiting.append((job, part.size * row.dtype.itemsize))
            done += part.size
        else:
            if done == row.size:
                self.rows.append(row)
                self._next += row.chunks
                self.nbytes += row.nbytes
                return
        raise UnsupportedInput(
            f"{row.label}: expected {row.size} values in parts of {row.step}, got others"
        )

    def finish(self, index: dict[str, Any] | Callable[[], dict[str, Any]]) -> int:
        """Wait for what is in the making, and write the index; returns the bytes of the file.

        index: or a function that gives it, which is called when all chunks are written.
        """
        while self._waiting:
            self._write_one()
        arrays = [[row.name, row.dtype.name, list(row.shape)] for row in self.rows]
        index = index() if callable(index) else index
        return self._writer.finish({"arrays": arrays, **index})

    def _write_one(self) -> None:
        job, nbytes = self._waiting.popleft()
        self._writer.add(job.result())
        if self._progress is not None:
            self._progress(nbytes)


def _encode(part, row, base, like, start, encode) -> bytes:
    part = np.ascontiguousarray(part).astype(row.dtype, copy=False)  # big-endian becomes little
    before = None if like is None else base.flat(like, start, start + part.size)
    return encode(part.reshape(row.block), base=before)
