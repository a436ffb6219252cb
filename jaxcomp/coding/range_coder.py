"""tensorflow-compression's range-coded strings and CDF tables, read and written byte for byte.

A message is one number in [0, 1), found by narrowing an interval (Martin, Range encoding, 1979).
Interval and number are integers over 2**(32 + 16 k), k words of 16 bits so far:

    [base, base + size),  2**16 < size <= 2**32
    coding [u, v) / 2**precision:  a = size u >> precision,  base += a,
                                   size = (size v >> precision) - a
    size <= 2**16:                 k += 1, base and size times 2**16

size does not depend on base, so the message is sum_k A_k 2**(-16 k), A_k the sum of the a's at k:
a carry may run as far as it likes, and adding it up as one long integer is all there is to it. The
string is the number of the last interval with the most trailing zeros, those not written:

    a multiple of 2**32 inside the interval, without the zero bytes it ends in;
    base itself where it is such a multiple, keeping its zero bytes;
    else the first multiple of 2**24, or of 2**16

A table is int32, one row after another (padded with 2**precision, or not):

    precision, 0, P(x < 1), P(x < 2), ..., 2**precision

A negative precision makes the last interval an escape. For a value below 0 it announces -value,
for one of last = number of intervals - 1 or more it announces value - last + 1: that number's
Elias gamma code (1975), then a sign bit, 1 for below, each bit coded as [0, 1) / 2 or [1, 2) / 2.

Host functions on NumPy arrays; about 2 Msym/s to write and 1 to read. `to_tables` moves the tables
to jaxcomp.coding, a hundred times as fast.
"""

from bisect import bisect_right
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from jaxcomp.base import CorruptStream, JaxcompError
from jaxcomp.coding.layout import as_int32
from jaxcomp.coding.tables import Tables, build_tables

WORD = 16  # bits that leave the interval at once; also the most that a precision may be
WINDOW = 32  # bits of base that a later symbol can still change without a carry
LONGEST_GAMMA = 30  # bits: from 2**30 on the original loops without end
BIT = [0, 1 << 15, 1 << 16]  # an even chance, in units of 2**-16


class Rows(NamedTuple):
    """Tables taken apart: all rows scaled to 16 bits, which changes no interval.

    cumulative  i64[n], one row after another, each from 0 to 2**16
    first       i64[rows], where each begins; last: i64[rows], its last interval
    precision   i64[rows]; escape: bool[rows]
    """

    cumulative: np.ndarray
    first: np.ndarray
    last: np.ndarray
    precision: np.ndarray
    escape: np.ndarray


def read_rows(cdf: Int[np.ndarray, "..."]) -> Rows:
    """The rows of a table, int32[n] (concatenated) or int32[rows, n] (stacked and padded).

    Raises JaxcompError where the original refuses the table.
    """
    cdf = as_int32(np.asarray(cdf), "cdf")
    if cdf.ndim not in (1, 2) or not cdf.size:
        raise JaxcompError(f"expected cdf[n] or cdf[rows, n], not empty, got shape {cdf.shape}")
    rows, headers = [], []
    for line in cdf if cdf.ndim == 2 else cdf[None]:
        at = 0
        while at < len(line):
            header, row, at = _read_row(line, at)
            headers.append(header)
            rows.append(row)
            if cdf.ndim == 2 and at < len(line):
                raise JaxcompError(f"expected one row per line, padded by its end, got {line[at]}")
    precision = np.abs(np.array(headers, np.int64))
    lengths = np.array([len(row) for row in rows])
    scaled = [row.astype(np.int64) << (WORD - p) for row, p in zip(rows, precision, strict=True)]
    first = np.cumsum(lengths) - lengths
    return Rows(np.concatenate(scaled), first, lengths - 2, precision, np.array(headers) < 0)


def _read_row(line, at):
    header = int(line[at])
    if not 1 <= abs(header) <= WORD:
        raise JaxcompError(f"expected a precision of 1 to 16, or its negative, got {header}")
    total = 1 << abs(header)
    tail = line[at + 1 :]
    ends = np.flatnonzero(tail == total)
    if not len(ends) or tail[0] != 0 or (np.diff(tail[: ends[0] + 1]) < 0).any():
        raise JaxcompError(
            f"expected a row that rises from 0 to {total}, got {np.array2string(tail, threshold=8)}"
        )
    more = np.flatnonzero(tail[ends[0] :] != total)
    end = ends[0] + more[0] if len(more) else len(tail)
    return header, tail[: ends[0] + 1], at + 1 + int(end)


def encode(
    cdf: Int[np.ndarray, "..."],
    symbols: Int[np.ndarray, "*shape"],
    index: Int[np.ndarray, "..."] | None = None,
    *,
    offset: int | Int[np.ndarray, " rows"] = 0,
) -> bytes:
    """The string that tensorflow-compression writes for these symbols, in order.

    index: the row of each symbol; None: rows in turn, as for channels on the last axis. offset:
    what interval 0 stands for, one for all rows or one each. Raises JaxcompError for symbols that
    the table does not hold: outside a row without escape, of no probability, 2**30 beyond its row.
    """
    rows = read_rows(cdf)
    symbols = as_int32(np.asarray(symbols), "symbols")
    row = _row_of_each(rows, index, symbols.shape)
    values = symbols.reshape(-1).astype(np.int64) - np.broadcast_to(offset, rows.first.shape)[row]
    return _write(*intervals(rows, row, values))


def decode(
    cdf: Int[np.ndarray, "..."],
    data: bytes,
    index: Int[np.ndarray, "..."] | None = None,
    *,
    shape: tuple[int, ...] | None = None,
    offset: int | Int[np.ndarray, " rows"] = 0,
) -> Int32[np.ndarray, "*shape"]:
    """The symbols of a string; `index` or `shape` says how many.

    Succeeds for exactly the strings that `encode` writes; any other raises CorruptStream. That
    catches bytes left over, not damage: there is no checksum, and a string with flipped bits or
    without its end mostly is what `encode` writes for other symbols.
    """
    rows = read_rows(cdf)
    shape = np.shape(index) if shape is None and index is not None else shape
    if shape is None:
        raise JaxcompError("expected an index or a shape, got neither; say how many symbols")
    row = _row_of_each(rows, index, shape)
    cumulative = np.split(rows.cumulative, rows.first[1:])
    choices = [
        (line.tolist(), int(last) if escape else -1, int(start))
        for line, last, escape, start in zip(
            cumulative,
            rows.last,
            rows.escape,
            np.broadcast_to(offset, rows.first.shape),
            strict=True,
        )
    ]
    reader = _Reader(bytes(data))
    take, symbols = reader.take, []
    for choice in row.tolist():
        line, last, start = choices[choice]
        value = take(line)
        if value == last:
            value = reader.escaped(last)
        symbols.append(value + start)
    reader.check_finished()
    symbols = np.array(symbols, np.int64)
    if len(symbols) and (symbols.min() < -(1 << 31) or symbols.max() >= 1 << 31):
        raise CorruptStream("expected symbols that fit int32; wrong offset, or a damaged string?")
    return symbols.astype(np.int32).reshape(shape)


def to_tables(
    cdf: Int[np.ndarray, "..."],
    *,
    offset: int | Int[np.ndarray, " rows"] = 0,
    precision: int | None = None,
) -> Tables:
    """The table for jaxcomp.coding: the same frequencies, at the same precision or a higher one.

    Our rows are of one length, and no frequency is 0. Shorter rows get columns of frequency 1
    before the escape, taken from the most probable values: at precision=16 that costs least. Raises
    JaxcompError for rows with and without escapes together, and for more precision than asked for.
    """
    rows = read_rows(cdf)
    precision = int(rows.precision.max()) if precision is None else precision
    escape = bool(rows.escape[0])
    if (rows.escape != escape).any() or not rows.precision.max() <= precision <= WORD:
        raise JaxcompError(
            f"expected rows all with escape or all without, of at most precision={precision} <= 16 "
            f"bits, got {int(rows.escape.sum())} of {len(rows.escape)} with escape and precisions "
            f"{np.unique(rows.precision)}; convert them apart"
        )
    width = int(rows.last.max()) + 1
    freq = np.zeros((len(rows.first), width), np.int64)
    for line, first, last in zip(freq, rows.first, rows.last, strict=True):
        steps = np.diff(rows.cumulative[first : first + last + 2]) >> (WORD - precision)
        line[:last] = steps[:-1]
        line[-1 if escape else last] = steps[-1]
        missing = line == 0
        line[missing] = 1
        for _ in range(int(missing.sum())):
            line[line.argmax()] -= 1
    return build_tables(freq.astype(np.float32), precision=precision, offset=offset, escape=escape)


def from_tables(tables: Tables) -> tuple[Int32[np.ndarray, "rows n"], Int32[np.ndarray, " rows"]]:
    """(cdf, offset) as tensorflow-compression takes them, of any jaxcomp.coding tables.

    to_tables(cdf, offset=offset) is the same tables again.
    """
    freq = np.asarray(tables.frequencies).astype(np.int32)
    header = -tables.precision if tables.escape else tables.precision
    head = np.broadcast_to(np.array([header, 0], np.int32), (len(freq), 2))
    return np.concatenate([head, np.cumsum(freq, 1, dtype=np.int32)], 1), np.asarray(tables.offset)


def _row_of_each(rows, index, shape):
    """i64[n], the row of each of the symbols in order."""
    count = len(rows.first)
    if index is None:
        return np.arange(int(np.prod(shape, dtype=np.int64))) % count
    index = np.asarray(index)
    if index.shape != tuple(shape) or not np.issubdtype(index.dtype, np.integer):
        raise JaxcompError(f"expected index i32{list(shape)}, got {index.dtype}{list(index.shape)}")
    index = index.reshape(-1).astype(np.int64)
    if index.size and not 0 <= index.min() <= index.max() < count:
        raise JaxcompError(f"expected rows 0 to {count - 1}, got {index.min()} to {index.max()}")
    return index


def intervals(rows, row, values):
    """Lists of the u and v of every step, escapes spelled out, in units of 2**-16."""
    last, escape = rows.last[row], rows.escape[row]
    outside = (values < 0) | (values >= last + ~escape)
    if (outside & ~escape).any():
        worst = int(np.flatnonzero(outside & ~escape)[0])
        raise JaxcompError(
            f"expected values 0 to {last[worst]} in row {row[worst]}, which has no escape, "
            f"got {values[worst]}"
        )
    at = rows.first[row] + np.where(outside, last, values)
    start, end = rows.cumulative[at], rows.cumulative[at + 1]
    if (start == end).any():
        worst = int(np.flatnonzero(start == end)[0])
        raise JaxcompError(f"value {values[worst]} has no probability in row {row[worst]}")
    if not outside.any():
        return start.tolist(), end.tolist()
    below = values < 0
    gamma = np.where(outside, np.where(below, -values, values - last + 1), 0)
    if gamma.max() >> LONGEST_GAMMA:
        raise JaxcompError(
            f"expected values less than 2**30 beyond their row, got {values[gamma.argmax()]}"
        )
    # n - 1 zeros, n bits, the sign: gamma * 2 + sign as 2 n bits, high bit first.
    bits = 2 * np.frexp(gamma.astype(np.float64))[1].astype(np.int64)
    spelled = gamma << 1 | below
    steps = 1 + bits
    ends = np.cumsum(steps)
    below_it = np.repeat(ends, steps) - 1 - np.arange(ends[-1])
    bit = (np.repeat(spelled, steps) >> np.minimum(below_it, 62) & 1) << (WORD - 1)
    plain = ends - steps
    bit[plain] = start
    stop = bit + (1 << (WORD - 1))
    stop[plain] = end
    return bit.tolist(), stop.tolist()


def _write(starts, ends):
    """The string of a message, from the interval of every step."""
    windows, inside, size = [], 0, 1 << WINDOW
    for start, end in zip(starts, ends, strict=True):
        step = size * start >> WORD
        size = (size * end >> WORD) - step
        inside += step
        if size <= 1 << WORD:
            size <<= WORD
            windows.append(inside)
            inside = 0
    windows.append(inside)
    # Windows overlap by a word: every other one is laid end to end, and the two rows are added.
    nbytes = 2 * len(windows) + 2
    base = 0
    for lag in (0, 1):
        line = b"\0\0" * lag + np.array(windows[lag::2], ">u4").tobytes()
        base += int.from_bytes(line.ljust(nbytes, b"\0"))
    number, used = _shortest(base, size)
    data = number.to_bytes(nbytes)
    return data[: nbytes - 4].rstrip(b"\0") if used is None else data[: nbytes - 4 + used]


def _shortest(base, size):
    """(number, bytes of the last window that are written), None: zero bytes before it go too."""
    inside = base % (1 << WINDOW)
    if inside + size > 1 << WINDOW:
        return base - inside + (1 << WINDOW), None
    if not inside:
        return base, 0
    number = (base - 1 >> 24) + 1 << 24
    if number < base + size:
        return number, 1
    return (base - 1 >> 16) + 1 << 16, 2  # inside, since size > 2**16


class _Reader:
    """The interval as seen from the number: its size, and how far the number is above base."""

    def __init__(self, data):
        self.data = data
        self.words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2").tolist()[::-1]
        self.size, self.above, self.read, self.window = 1 << WINDOW, 0, 0, 0
        self.refill()
        self.refill()

    def refill(self):
        word = self.words.pop() if self.words else 0
        self.above = self.above << WORD | word
        self.window = (self.window << WORD | word) & 0xFFFFFFFF
        self.read += 1

    def take(self, line):
        """The interval of a row, in units of 2**-16, that the number lies in."""
        size = self.size
        value = bisect_right(line, ((self.above << WORD) + 0xFFFF) // size) - 1
        step = size * line[value] >> WORD
        self.above -= step
        self.size = size = (size * line[value + 1] >> WORD) - step
        if size <= 1 << WORD:
            self.size = size << WORD
            self.refill()
        return value

    def escaped(self, last):
        zeros = 0
        while not self.take(BIT):
            zeros += 1
            if zeros == LONGEST_GAMMA:
                raise CorruptStream(f"expected an escape below 2**30, got {zeros} zeros")
        gamma = 1
        for _ in range(zeros):
            gamma = gamma << 1 | self.take(BIT)
        return -gamma if self.take(BIT) else gamma + last - 1

    def check_finished(self):
        """Whether the encoder would have written this number, and with as many bytes."""
        base = (self.window - self.above) % (1 << WINDOW)
        number, used = _shortest(base, self.size)
        written = 2 * self.read - 4
        if used is None:
            fits = len(self.data) <= written and not self.data.endswith(b"\0")
        else:
            fits = len(self.data) == written + used
        if not fits or number % (1 << WINDOW) != self.window:
            raise CorruptStream(
                f"expected the end of a message after {self.read} words, got {len(self.data)} "
                "bytes; damaged, or another table or number of symbols?"
            )
