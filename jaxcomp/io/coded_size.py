"""What a file of weights will take, from counts of its symbols alone: nothing is coded.

jc.tree.nbytes is memory. In a file (weights_file.py) a plane of n symbols, of which count_s are s,
takes its table and

    sum_s count_s (16 - log2 frequency_s) bits, and the heads of its lanes

or n bytes where that is no less. Codes that were chosen for few bits (entropy_constrained, l2) are
as many bytes in memory as any others, and fewer in the file.
"""

from typing import Any

import numpy as np

from jaxcomp import coding
from jaxcomp.coding import universal
from jaxcomp.coding.coded_array import (
    EXPANSION,
    LEAST,
    PRECISION,
    Codes,
    byte_planes,
    unpacked_codes,
)
from jaxcomp.coding.halving import fills_tails
from jaxcomp.coding.stream import HALVED_BITS, HEAD_BITS, MAX_HALVED
from jaxcomp.io.tree_nodes import Writer
from jaxcomp.io.weights_file import framed


def coded_nbytes(tree: Any) -> int:
    """Bytes of the file that save_weights would write, within 1 %, headers and scales included.

    Raises UnsupportedInput for what cannot be saved.
    """
    writer = Writer()
    node = writer.node(tree)
    found = [_array_nbytes(x, codes) for x, codes in writer.rows]
    return len(framed(tree, node, writer.rows, found, b"")) + sum(sum(n) for _, n in found)


def _array_nbytes(x: np.ndarray, codes: Codes | None) -> tuple[str, list[int]]:
    """(kind, bytes of each plane), as write_array chooses."""
    planes = [plane_nbytes(plane, 256) for plane in byte_planes(x)]
    if codes is not None and (symbols := unpacked_codes(x, codes)) is not None:
        coded = plane_nbytes(symbols, codes.alphabet)
        if coded < min(len(symbols), sum(planes)):
            return "codes", [coded]
    return "bytes", planes


def plane_nbytes(symbols: np.ndarray, alphabet: int) -> int:
    """Bytes of one plane."""
    n = symbols.size
    if n < LEAST:
        return n
    counts = np.bincount(symbols, minlength=alphabet).astype(np.float64)
    share = counts[counts > 0] / n
    if -(share * np.log2(share)).sum() * n / 8 > 0.99 * n:
        return n
    entries = np.asarray(coding.build_tables(counts, precision=PRECISION).entries).reshape(-1)
    table = entries >> 16  # frequency - 1
    k = universal.best_exponential_golomb(table)
    side = 2 + len(universal.exponential_golomb_encode(table, k))
    bits = float((counts * (PRECISION - np.log2(table + 1.0))).sum())
    coded = side + round((bits + _heads_bits(bits, n)) / 8)
    return coded if n / EXPANSION <= coded < n else n


def _heads_bits(bits: float, count: int) -> int:
    whole = fills_tails(bits, count)
    lanes = coding.choose_lanes(bits, whole=whole)
    return lanes * (HALVED_BITS if whole and 1 < lanes <= MAX_HALVED else HEAD_BITS)
