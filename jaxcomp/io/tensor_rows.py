"""Arrays of a file of tensors, and the chunks that hold them.

A file of codec "tensors" (coding/chunked.py) has the header {"tensors_version", "chunk_nbytes"},
with "base" for a delta: the SHA-256 of the file that it is one against. Its index is

    {"arrays": [[name, dtype, shape], ...], "kind": "tree", "tree": node}          save_tensors
    {"arrays": ..., "kind": "file" | "folder" | "npz", "files": [...], ...}        compress_file

Every array is cut into chunks of at most chunk_nbytes, of whole rows where one fits (`cut`), in C
order, little-endian; chunks of all arrays follow each other. Small ones share a chunk, and have a
fourth entry that says so (tensor_pools.py); version 1 had none. A name of null is for bytes that
are no array: headers, small files.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.base import UnsupportedInput
from jaxcomp.io.tree_nodes import DTYPES, dtype_of

CODEC = "tensors"
VERSION = 2  # and 1, in which no array shared a chunk, is read
# Tables of a chunk take hundreds of bytes: a ten-thousandth. Two cores have four in the making.
CHUNK_NBYTES = 1 << 22
CHUNK_LIMIT = 1 << 26  # what a stranger may make us decode at once
LEAST = 16  # bytes: one value of the widest dtype
RANK_LIMIT = 32
# A chunk that does not shrink is stored, with a few bytes that say so.
SLACK = 64
# What a file may hold where the caller sets no limit: checkpoints shrink to a half or a third,
# deltas of them to a tenth. Above both numbers it may be a trap, and the caller is asked.
PLENTY, EXPANSION = 1 << 32, 16


class Row(NamedTuple):
    """One array: name, dtype, shape, its first chunk, and the values in each chunk but the last.

    Where it shares a chunk with others: where it starts there, and the values of the chunk, else 0.
    """

    name: str | None
    dtype: np.dtype
    shape: tuple[int, ...]
    first: int
    step: int
    start: int = 0
    pool: int = 0

    @property
    def size(self) -> int:
        """Values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the values in memory."""
        return self.size * self.dtype.itemsize

    @property
    def chunks(self) -> int:
        """How many chunks hold it: one that it shares is one."""
        return -(-self.size // self.step)

    @property
    def block(self) -> tuple[int, ...]:
        """The shape of a chunk: rows of an array have statistics of their own."""
        inner = math.prod(self.shape[1:])
        if inner <= 1 or self.step % inner == 0:
            return (-1, *self.shape[1:])
        return (-1, self.shape[-1]) if self.step % self.shape[-1] == 0 else (-1,)

    @property
    def label(self) -> str:
        """Its name in messages."""
        return "other bytes" if self.name is None else ascii(self.name)[1:-1][:80]


def make_row(name: str | None, dtype: Any, shape: Any, first: int, chunk_nbytes: int) -> Row:
    """The row of an array that is to be written. UnsupportedInput for what could not be read."""
    found = np.dtype(dtype)
    if found.name not in DTYPES:
        raise UnsupportedInput(
            f"{name}: expected a dtype among {', '.join(DTYPES)}, got {found}; view it as bytes"
        )
    shape = tuple(map(int, shape))
    if not fits(shape):
        raise UnsupportedInput(
            f"{name}: expected at most {RANK_LIMIT} axes, each below 2**48, got {len(shape)} up to "
            f"{max(shape)}; reshape it"
        )
    return Row(name, dtype_of(found.name), shape, first, cut(shape, found, chunk_nbytes))


def cut(shape: tuple[int, ...], dtype: np.dtype, chunk_nbytes: int) -> int:
    """Values in a chunk: whole x[i] where one fits, else whole rows of the last axis, else any."""
    most = chunk_nbytes // dtype.itemsize
    for inner in (math.prod(shape[1:]), *shape[-1:]):
        if 0 < inner <= most:
            return most // inner * inner
    return most


def fits(shape: Sequence[int]) -> bool:
    """Whether NumPy and a memory have such arrays, also where they are empty."""
    good = len(shape) <= RANK_LIMIT and all(0 <= n < 1 << 48 for n in shape)
    return good and math.prod(n for n in shape if n) < 1 << 56


def check_room(nbytes: int, limit: int) -> None:
    """UnsupportedInput for more than the caller allows."""
    if nbytes > limit:
        raise UnsupportedInput(
            f"expected at most {limit} bytes of arrays, got {nbytes}; if you trust the file, raise "
            "max_nbytes (--max-bytes)"
        )
