"""Which table codes a byte: of rows and columns of a matrix that differ in scale.

A row's exponents have a mean, and so do a column's. Both are stored as steps of half an exponent,
and a symbol of row i and column j (of a pair of columns, where two bytes share a symbol) has the
class

    clip(row[i] + column[j] - 128, 0, classes - 1)

Steps are bytes. What has no rows, or one table for all, has one class. Embeddings gain 10 % of
what their exponents take, layers of a transformer 1 to 3 %, Gaussians nothing: it is estimated
from a sample, with what the steps and tables take, and chosen where it is smaller.
"""

import itertools
from typing import NamedTuple

import numpy as np

from jaxcomp.base import CorruptStream

MOST = 16  # classes, of 16 KiB of table each: they stay in the second cache
STEP = 0.5  # of the mean exponent
LEAST_ROWS, LEAST_COLUMNS = 16, 16
LOOKED_AT = 128  # values of a row or a column that tell its mean
LEAST_VARIANCE = 0.01  # of means: classes would save this over twice the variance, 0.2 %
TRIED = 1 << 16  # symbols that tell what classes would save
ZERO = 128  # the byte of step 0


class Classes(NamedTuple):
    """Counts of each class and kind; and the steps of rows and columns, where there are any."""

    counts: np.ndarray  # float[classes, kinds]
    width: int  # symbols in a row
    rows: np.ndarray | None
    columns: np.ndarray | None

    def of(self, symbols: int) -> np.ndarray | None:
        """u8[symbols] the class of each; None: all are of the first."""
        return _index(self.rows, self.columns, self.width, symbols, len(self.counts))

    def steps(self) -> list[np.ndarray]:
        """What is stored."""
        return [s for s in (self.rows, self.columns) if s is not None]


def choose(plane: np.ndarray, width: int, per: int, rank: np.ndarray, kinds: int) -> Classes:
    """Classes for the bytes of a plane, `per` of them a symbol, of the given ranks."""
    kind = rank[plane[:: -(-plane.size // (2 * TRIED))]]
    counts = np.bincount(kind, minlength=kinds)[None].astype(float)
    one = Classes(counts, 0, None, None)
    rows = plane.size // width if width else 0
    if width < LEAST_COLUMNS or rows < LEAST_ROWS or rows * width != plane.size or width % per:
        return one
    values = plane.reshape(rows, width)
    level = _levels(plane, rank, kinds)
    row = _steps(level, values, 1)
    column = _steps(level, values.T, per)
    if row is None and column is None:
        return one
    # An odd number of symbols from one to the next that does not divide rows: all columns are seen.
    symbols = plane.size // per
    stride = next(s for s in itertools.count(-(-symbols // TRIED) | 1, 2) if s == 1 or width % s)
    place = np.arange(0, symbols, stride)
    kind = rank[plane.reshape(symbols, per)[place]].astype(np.intp)
    split = place // (width // per), place % (width // per)
    tried = [_tried(r, c, width // per, kind, split, kinds) for r, c in _choices(row, column)]
    return min((one, *tried), key=lambda c: _bits(c, plane.size))


def _choices(row, column):
    """Rows alone, columns alone, both: of those that differ."""
    if row is not None and column is not None:
        return (row, None), (None, column), (row, column)
    return ((row, column),)


def _tried(row, column, width, kind, split, kinds):
    """Classes of these steps, and the counts of a sample: its kinds, their rows and columns."""
    there = [x for x in (row, column) if x is not None]
    low = sum(int(np.percentile(x, 1)) for x in there)
    classes = min(max(sum(int(np.percentile(x, 99)) for x in there) - low + 1, 2), MOST)
    there[0] = there[0] - low
    stored = [np.clip(x + ZERO, 0, 255).astype(np.uint8) for x in there]
    rows, columns = stored if len(stored) == 2 else (stored[0],) * 2
    rows, columns = None if row is None else rows, None if column is None else columns
    total = -ZERO * (len(stored) - 1) - ZERO
    total += 0 if rows is None else rows[split[0]].astype(np.intp)
    total += 0 if columns is None else columns[split[1]].astype(np.intp)
    index = np.clip(total, 0, classes - 1)[:, None] * kinds + kind
    counts = np.bincount(index.reshape(-1), minlength=classes * kinds).reshape(classes, kinds)
    return Classes(counts.astype(float), width, rows, columns)


def _steps(level, values, per):
    """int[rows / per]: the mean of each row, or rows, in steps from the mean of all.

    None where they differ no more than a few values of each would by chance.
    """
    rows, width = values.shape
    for look in (LOOKED_AT // 4, LOOKED_AT):
        some = level[values[:, :: -(-width // look)].reshape(rows // per, -1)]
        mean, noise = some.mean(1), some.var(1).mean() / some.shape[1]
        if mean.var() < 1.5 * noise + LEAST_VARIANCE:
            return None
    return np.rint((mean - mean.mean()) / STEP).astype(int)


def _levels(plane, rank, kinds):
    """float32[256]: the value of a byte, held near the common ones: zeros are no small exponent."""
    common = np.flatnonzero(rank < max(min(kinds // 2, 8), 1))
    return np.clip(np.arange(256), common.min() - 4, common.max() + 4).astype(np.float32)


def _bits(classes, size):
    """About what a plane takes: entropy, two bits for each step, and tables."""
    counts = classes.counts
    total = counts.sum(1, keepdims=True)
    bits = -(counts * np.log2(np.maximum(counts, 1e-9) / np.maximum(total, 1))).sum()
    bits *= size / total.sum()
    return bits + 2.5 * sum(s.size for s in classes.steps()) + 9 * counts.size


def sizes(width: int, symbols: int, rows: bool, columns: bool) -> tuple[int, int]:
    """Steps of rows and of columns. CorruptStream for rows that do not fill the plane."""
    if not rows and not columns:
        return 0, 0
    if not 0 < width <= symbols or symbols % width:
        raise CorruptStream(f"expected {symbols} symbols in rows, got rows of {width}")
    return rows * (symbols // width), columns * width


def read(
    steps: np.ndarray, layout: tuple[int, int], width: int, symbols: int, classes: int
) -> np.ndarray | None:
    """u8[symbols], the class of each, from stored steps; None: there is one."""
    if classes == 1 or not sum(layout):
        return None
    rows, columns = steps[: layout[0]], steps[layout[0] :]
    rows, columns = (x if x.size else None for x in (rows, columns))
    return _index(rows, columns, width, symbols, classes)


def _index(rows, columns, width, symbols, classes):
    if rows is None and columns is None:
        return None
    row = np.zeros(symbols // width, np.int16) if rows is None else rows.astype(np.int16) - ZERO
    column = np.int16(0) if columns is None else columns.astype(np.int16) - ZERO
    out = np.empty((symbols // width, width), np.uint8)
    # Of all sums there are few: a row is copied from the one for its step.
    steps, which = np.unique(row, return_inverse=True)
    table = np.clip(steps[:, None] + column, 0, classes - 1).astype(np.uint8)
    np.take(np.broadcast_to(table, (len(steps), width)), which, axis=0, out=out, mode="clip")
    return out.reshape(-1)
