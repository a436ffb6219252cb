"""Frequencies of bytes, alone and in pairs, for kernels/rans_bytes.py: integers decide all.

Kinds of bytes have shares g of 2**14, which travel. A symbol of weight w, which is g[a], or
g[a] g[b] for a pair of bytes (a, b), gets at precision p the frequency

    f = max(1, w s >> shift)

with the largest s for which a class's sum to at most 2**p; what is left goes to the first symbol of
the largest weight. So a table of 256 pairs is stored as its 16 shares: exponents of weights that
are neighbours are all but independent once their row and column are known.
"""

import functools

import numpy as np
from jaxtyping import Float, Int64, UInt32

from jaxcomp.kernels.rans_bytes import KINDS, MOST, PRECISIONS, SYMBOLS

SHARES = 1 << 14  # what the shares of a class sum to
# Tables of all classes together, of 4 bytes for each slot: what leaves room in the second cache.
LARGEST_TABLES = 5 << 16


def shares(counts: Float[np.ndarray, "classes kinds"]) -> Int64[np.ndarray, "classes kinds"]:
    """Integers g >= 1 that sum to SHARES in each class, near the shares of the counts.

    Only the encoder calls it: the integers travel, and rounding is nobody's concern.
    """
    counts = counts + 1e-3
    scale = SHARES / counts.sum(1, keepdims=True)
    for _ in range(2):  # what is rare has a share of 1, and the others have the rest
        rare = counts * scale < 1
        rest = SHARES - rare.sum(1, keepdims=True)
        scale = rest / np.where(rare, 0, counts).sum(1, keepdims=True)
    g = np.maximum(1, np.rint(counts * scale)).astype(np.int64)
    g[np.arange(len(g)), counts.argmax(1)] += SHARES - g.sum(1)
    return g


def best_table(
    g: Int64[np.ndarray, "classes kinds"], paired: bool
) -> tuple[int, UInt32[np.ndarray, "classes 256"]]:
    """(precision, frequencies): the largest at which no frequency is above MOST, and the tables
    stay in a cache."""
    largest = (g.max() / SHARES) ** (1 + paired)
    for p in reversed(PRECISIONS):
        near = largest * 2**p < 0.98 * MOST and 4 * len(g) << p <= LARGEST_TABLES
        # What is left over goes to the largest: only the table itself says whether it fits.
        if near or p == PRECISIONS[0]:  # at which no symbol can have more
            table = frequencies(g, p, paired)
            if table.max() <= MOST:
                break
    return p, table


def frequencies(
    g: Int64[np.ndarray, "classes kinds"], precision: int, paired: bool
) -> UInt32[np.ndarray, "classes 256"]:
    """f[class, kind], or f[class, a | b << 4] of at most 16 kinds; 0 for what is not there.

    A sum for s is off from that of w s / 2**shift, which is s / 4, by less than the symbols there
    are: so far around it s is looked for, by halves. Doubles hold all exactly.
    """
    classes, kinds = g.shape
    total, symbols = 1 << precision, kinds ** (1 + paired)
    # Of two pairs in either order one is enough, and counts twice.
    a, b, times = _either_order(kinds) if paired else (0, 0, np.ones(kinds))
    weight = g * 2.0**-15
    weight = weight[:, a] * weight[:, b] if paired else g * 2.0**-16
    f = np.empty_like(weight)

    def left(s):
        np.multiply(weight, s[:, None], out=f)
        np.floor(f, out=f)
        np.maximum(f, 1, out=f)
        return total - f @ times

    low = np.full(classes, 4.0 * (total - symbols))
    for bit in reversed(range((8 * symbols).bit_length())):
        low += (left(low + 2.0**bit) >= 0) * 2.0**bit
    rest, first = left(low), weight.argmax(1)
    table = np.zeros((classes, SYMBOLS), np.uint32)
    places = a + KINDS * b if paired else np.arange(kinds)
    if paired:
        table[:, b + KINDS * a] = f
    table[:, places] = f
    table[np.arange(classes), places[first]] += rest.astype(np.uint32)
    return table


@functools.cache
def _either_order(kinds):
    """(a, b, times) of all a <= b: the first of the largest weight is the first of the table."""
    a, b = np.triu_indices(kinds)
    return a, b, np.where(a == b, 1.0, 2.0)
