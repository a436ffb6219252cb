"""What each array of a file takes, beside its order-0 entropy.

The order-0 entropy is what the bytes of an array would take if each place in a value had one ideal
table for the whole array: the sum over places of n * H(bytes there). Floats are rotated left by a
bit first, so that the first byte of float32 and bfloat16 is the exponent: of weights it takes 2.5
bits of 8, and what follows is noise. Tables that follow the data take less, tables that are sent
take more.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxcomp.io.tensor_reader import Tensors
from jaxcomp.io.tensor_rows import Row, check_room


class ArrayInfo(NamedTuple):
    """One array: nbytes in memory, coded_nbytes in the file, and at order 0 (None: not asked).

    shared: it has a part of a chunk, and coded_nbytes is such a part of the chunk's bytes.
    """

    name: str | None
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    coded_nbytes: int
    order0_nbytes: float | None
    shared: bool


def array_infos(
    tensors: Tensors, *, entropy: bool = True, progress: Callable[[int], None] | None = None
) -> list[ArrayInfo]:
    """Of every array, and of runs of other bytes, whose name is None.

    entropy: decode everything to count it, in the memory of a few chunks. UnsupportedInput where
        that is more than the limit that the file was opened with: a small file may say a lot.
    """
    counts: dict[tuple[int, int], np.ndarray] = {}
    if entropy:
        check_room(sum(row.nbytes for row in tensors.rows), tensors.max_nbytes)
        for row, found in tensors.parts(tensors.rows, _counts):
            place = row.first, row.start
            counts[place] = found if place not in counts else counts[place] + found
            if progress is not None:
                progress(int(found[0].sum()) * len(found))
    return [
        ArrayInfo(
            row.name,
            row.dtype.name,
            row.shape,
            row.nbytes,
            tensors.coded_nbytes(row),
            (_entropy_nbytes(counts[row.first, row.start]) if row.size else 0.0)
            if entropy
            else None,
            row.pool > 0,
        )
        for row in tensors.rows
    ]


def _counts(row: Row, values: np.ndarray) -> np.ndarray:
    """i64[places, 256]: how often each byte is at each place of a value."""
    wide = values.dtype.itemsize // (2 if values.dtype.kind == "c" else 1)
    whole = values.view(f"u{wide}")
    if wide > 1 and values.dtype.kind not in "iu":
        whole = whole << 1 | whole >> 8 * wide - 1
    if wide == 1:
        return np.bincount(whole, minlength=256)[None]
    found = []
    for pair in whole.view(np.uint16).reshape(-1, wide // 2).T:  # two places in one pass
        both = np.bincount(pair, minlength=1 << 16).reshape(256, 256)
        found += [both.sum(0), both.sum(1)]
    return np.stack(found)


def _entropy_nbytes(counts: np.ndarray) -> float:
    """Bytes of all places at their order-0 entropy."""
    n = counts.sum(-1, keepdims=True)
    bits = counts * np.log2(n / np.maximum(counts, 1))
    return float(bits.sum() / 8)
