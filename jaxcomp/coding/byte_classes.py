"""Which table codes a byte: of rows and columns of a matrix that differ in scale.

A row's exponents have a mean, and so do a column's. Both are stored as steps of half an exponent,
and a symbol of row i and column j (of a pair of columns, where two bytes share a symbol) has the
class

    clip(row[i] + column[j] - 128, 0, classes - 1)

Steps are bytes. Where a chunk holds several arrays, all rows of one may have the step of its mean:
runs of equal steps deflate to nothing. Whether it pays is estimated from a sample, with
what steps and tables take.

Bits of an exponent, by order 0 and by rows and columns: Gaussians 2.55 and 2.55, layers of MiniLM
2.61 and 2.57, its embeddings 2.71 and 2.47 (in pairs 2.53), first moments of Adam 2.75 and 2.50,
second moments 3.0 and 1.8. The exponent on the left or above as context gives less everywhere
(second moments 2.4), the first moment's exponent nothing that rows and columns do not (1.78).
"""

import itertools
from typing import NamedTuple

import numpy as np

from jaxcomp.base import CorruptStream

MOST = 16  # classes, of 16 KiB of table each: they stay in the second cache
STEP = 0.5  # of the mean exponent
LEAST_ROWS, LEAST_COLUMNS = 16, 16
LOOKED_AT = 96  # values of a row or a column that tell its mean
LEAST_VARIANCE = 0.01  # of means: classes would save this over twice the variance, 0.2 %
PAID = 1 / 16  # bits of a byte that are worth half the speed
TIME = 1 / 128  # bits of a byte that are worth the time that classes take
TRIED, COUNTED = 1 << 13, 1 << 15  # bytes that tell what classes would save, and their counts
CHANGE = 24  # bits of a run of equal steps
WIDE = 64  # values in a row of several arrays that has a scale of its own
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


def choose(
    plane: np.ndarray,
    width: int,
    paired: bool,
    rank: np.ndarray,
    counts: np.ndarray,
    groups: np.ndarray | None = None,
) -> tuple[bool, Classes]:
    """(whether two bytes share a symbol, classes), for a plane of bytes of the given ranks, of
    which there are so many in a sample. groups: rows of each of several arrays.

    Pairs are twice as fast, but share a column's class: where they may be, they are taken unless
    single bytes save more than PAID for each.
    """
    kinds = len(counts)
    one = Classes(counts[None].astype(float), 0, None, None)
    rows = plane.size // width if width else 0
    if width < LEAST_COLUMNS or rows < LEAST_ROWS or rows * width != plane.size:
        return paired, one
    values = plane.reshape(rows, width)
    level = _levels(rank, kinds)
    alike = _group_means(level, plane, width, groups)
    row = column = None
    if alike is None or width >= WIDE:
        row, column = _means(level, values), _means(level, values.T)
    if row is None and column is None and alike is None:
        return paired, one

    def least(per):
        sample = _sample(values, per, TRIED)
        found = [one, *(_counted(c, sample, rank, kinds) for c in _tried(row, column, alike, per))]
        return min(found, key=lambda c: _bits(c, plane.size))

    def settled(per, found):
        if found is one or plane.size <= TRIED:
            return per == 2, found
        return per == 2, _counted(found, _sample(values, per, COUNTED), rank, kinds)

    if not paired:
        return settled(1, least(1))
    # Rows of an odd width have no pairs of columns.
    pair = one if width % 2 else least(2)
    if pair is not one and column is None:
        return settled(2, pair)
    single = least(1)
    pays = _bits(pair, plane.size) - _bits(single, plane.size) > PAID * plane.size
    return settled(1, single) if pays else settled(2, pair)


def _tried(row, column, alike, per):
    """Classes by rows, by columns, by both and by arrays, of those that differ, without counts."""
    if column is not None:
        column = column.reshape(-1, per).mean(1)
    found = [(r, c) for r in (None, row) for c in (None, column)] + [(alike, None)]
    for r, c in {(id(r), id(c)): (r, c) for r, c in found}.values():
        if r is None and c is None:
            continue
        steps = [np.rint(x / STEP).astype(int) for x in (r, c) if x is not None]
        ends = [np.sort(x)[[len(x) // 64, -1 - len(x) // 64]] for x in steps]
        low, high = (int(end) for end in sum(ends))
        classes = min(max(high - low + 1, 2), MOST)
        steps[0] -= low + (high - low + 1 - classes) // 2
        stored = [np.clip(x + ZERO, 0, 255).astype(np.uint8) for x in steps]
        by_row, by_column = stored[0] if r is not None else None, stored[-1]
        yield Classes(np.zeros((classes, 0)), 0, by_row, by_column if c is not None else None)


def _sample(values, per, count):
    """(symbols in a row; row, column and bytes of some symbols), of about `count` bytes."""
    width = values.shape[1] // per
    flat = values.reshape(-1, per)
    # An odd number of symbols from one to the next that does not divide rows: all columns are seen.
    stride = -(-flat.size // count) | 1
    stride = next(s for s in itertools.count(stride, 2) if s == 1 or width % s)
    place = np.arange(0, len(flat), stride)
    i = ((place + 0.5) * (1 / width)).astype(np.intp)  # faster than a division
    return width, i, place - i * width, flat[::stride]


def _counted(found, sample, rank, kinds):
    """Classes with the counts of a sample."""
    width, i, j, values = sample
    pairs = (found.rows, i), (found.columns, j)
    total = sum(x[n].astype(np.int16) - np.int16(ZERO) for x, n in pairs if x is not None)
    classes = len(found.counts)
    index = np.clip(total, 0, classes - 1)[:, None] * np.int16(kinds) + rank[values]
    counts = np.bincount(index.reshape(-1), minlength=classes * kinds).astype(float)
    return found._replace(counts=counts.reshape(classes, kinds), width=width)


def _means(level, values):
    """float[rows]: the mean of each row less that of all.

    None where they differ no more than a few values of each would by chance.
    """
    rows, width = values.shape
    for look in (LOOKED_AT // 4, LOOKED_AT):
        some = np.ascontiguousarray(values[:, :: -(-width // look)]).clip(*level)
        mean = some.sum(1, dtype=np.uint32) / some.shape[1]
        noise = some[:: -(-rows // LOOKED_AT)].var(1).mean() / some.shape[1]
        # By chance the variance of means is the noise, give or take sqrt(2 / rows) of it.
        if mean.var() < (1 + 4 / rows**0.5) * noise + LEAST_VARIANCE:
            return None
    return mean - mean.mean()


def _group_means(level, plane, width, groups):
    """float[rows]: the mean of each row's array less that of all. None: there is one."""
    if groups is None or len(groups) < 2:
        return None
    starts = np.concatenate([[0], np.cumsum(groups)[:-1]]) * width
    mean = np.add.reduceat(plane.clip(*level), starts, dtype=np.uint32) / (groups * width)
    mean = np.repeat(mean, groups)
    return mean - mean.mean() if mean.var() > LEAST_VARIANCE else None


def _levels(rank, kinds):
    """(least, most) that a byte counts as, near the common ones: a zero is no small exponent."""
    common = np.flatnonzero(rank < max(min(kinds // 2, 8), 1))
    return np.uint8(max(common[0], 4) - 4), np.uint8(min(common[-1], 251) + 4)


def _bits(classes, size):
    """About what a plane takes: entropy, steps, tables, and what time is worth."""
    counts = classes.counts
    total = counts.sum(1, keepdims=True)
    bits = -(counts * np.log2(np.maximum(counts, 1e-9) / np.maximum(total, 1))).sum()
    # A sample seems to have less entropy than what it is of (Miller, 1955).
    bits += (np.count_nonzero(counts) - len(counts)) / (2 * np.log(2))
    bits *= size / total.sum()
    bits += TIME * size * (len(counts) > 1)
    for s in classes.steps():
        bits += min(2.5 * s.size, CHANGE * np.count_nonzero(s[1:] != s[:-1]))
    return bits + 9 * counts.size


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
    steps = np.flatnonzero(np.bincount(row + ZERO)).astype(np.int16) - ZERO
    which = np.zeros(256, np.intp)
    which[steps + ZERO] = np.arange(len(steps))
    which = which[row + ZERO]
    table = np.clip(steps[:, None] + column, 0, classes - 1).astype(np.uint8)
    np.take(np.broadcast_to(table, (len(steps), width)), which, axis=0, out=out, mode="clip")
    return out.reshape(-1)
