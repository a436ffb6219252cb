"""Frequencies of bytes, alone and in pairs, for kernels/rans_bytes.py: integers decide all.

Kinds of bytes have shares g of 2**14, which travel. A symbol of weight w, which is g[a], or
g[a] g[b] for a pair of bytes (a, b), gets at precision p the frequency

    f = max(1, w s >> shift)

with the largest s for which a class's sum to at most 2**p; what is left goes to the first symbol of
the largest weight. So a table of 256 pairs is stored as its 16 shares: exponents of weights that
are neighbours are all but independent once their row and column are known.
"""

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
    low, high = np.zeros((len(counts), 1)), 2 * SHARES / counts.max(1, keepdims=True)
    for _ in range(24):
        scale = (low + high) / 2
        fits = np.maximum(1, np.floor(counts * scale)).sum(1, keepdims=True) <= SHARES
        low, high = np.where(fits, scale, low), np.where(fits, high, scale)
    g = np.maximum(1, np.floor(counts * low)).astype(np.int64)
    g[np.arange(len(g)), counts.argmax(1)] += SHARES - g.sum(1)
    return g


def best_precision(g: Int64[np.ndarray, "classes kinds"], paired: bool) -> int:
    """The largest at which no frequency is above MOST, and the tables stay in a cache."""
    largest = (g.max() / SHARES) ** (1 + paired)
    for p in reversed(PRECISIONS):
        near = largest * 2**p < 0.98 * MOST and 4 * len(g) << p <= LARGEST_TABLES
        # What is left over goes to the largest: only the table itself says whether it fits.
        if near and frequencies(g, p, paired).max() <= MOST:
            return p
    return PRECISIONS[0]  # at which no symbol can have more


def frequencies(
    g: Int64[np.ndarray, "classes kinds"], precision: int, paired: bool
) -> UInt32[np.ndarray, "classes 256"]:
    """f[class, kind], or f[class, a | b << 4] of at most 16 kinds; 0 for what is not there."""
    classes, kinds = g.shape
    weight = (g[:, :, None] * g[:, None, :]).reshape(classes, -1) if paired else g
    shift = (28 if paired else 14) + 2
    s = np.zeros((classes, 1), np.int64)
    for bit in reversed(range(precision + 3)):
        probe = s | 1 << bit
        fits = np.maximum(1, weight * probe >> shift).sum(1, keepdims=True) <= 1 << precision
        s = np.where(fits, probe, s)
    f = np.maximum(1, weight * s >> shift)
    f[np.arange(classes), weight.argmax(1)] += (1 << precision) - f.sum(1)
    if paired:
        room = KINDS - kinds
        f = np.pad(f.reshape(classes, kinds, kinds), ((0, 0), (0, room), (0, room)))
        return f.reshape(classes, -1).astype(np.uint32)
    return np.pad(f, ((0, 0), (0, SYMBOLS - kinds))).astype(np.uint32)
