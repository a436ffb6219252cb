"""Lossless: exponents entropy-coded, signs and mantissas as they are; every bit comes back.

Costs the order-0 entropy of pairs of exponents (formats/lossless.py says how), 0.3 % of it for
integer frequencies, 4 bytes per lane, and what the words of a block need less than those of the
longest. Of Gaussian weights [1024, 4096] 66.3 % of the bytes of bfloat16 are left, 84.9 % of
float16, 83.2 % of float32; of the matrices of MiniLM-L6 67.0 % of bfloat16, 0.24 % above entropy
and heads, and 83.5 % of float32. DFloat11 keeps about 70 % of bfloat16 (Zhang et al.,
arXiv:2504.11651).

Decoding in bfloat16 writes 0.5 to 0.9 GB/s on one core of a CPU, where a product with few rows is
then two to six times as long as with the dense weight: it is memory that is saved. Encoding takes
80 MB/s of bfloat16 and 130 of float32. Gradients reach what such weights are multiplied by; they
themselves are frozen: jax.grad by them is jax's TypeError for integers.
"""

import warnings

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8, UInt16, UInt32

from jaxcomp.base import Transform, UnsupportedInput
from jaxcomp.formats.layout import Layout, layout, merged_axis
from jaxcomp.formats.lossless import (
    DTYPES,
    KINDS,
    NO_ESCAPE,
    PLACE_BITS,
    PRECISION,
    SLOTS,
    START,
    SYMBOLS,
    Lossless,
    placed,
    rooms,
)
from jaxcomp.kernels import rans_numpy

LANES = 128  # of a block: a register of a TPU, a warp of a GPU with four each
STEPS = 256  # symbols of a lane: its 4 bytes are then under 1 % of what it codes
LEAST_STEPS = 64  # smaller matrices have fewer lanes rather than shorter ones
AT_ONCE = 1 << 20  # symbols encoded at a time: their words stay in cache
TILE = 16  # rows copied at a time where rows become columns: ten times as fast as one by one


def lossless(*, steps: int = STEPS) -> Transform:
    """Data-free, of bfloat16, float16 and float32; any bits, NaN too. Runs on the host.

    steps  symbols that a lane decodes one after another: fewer give a large machine more to do at
           once, and cost 4 bytes for each `steps` symbols

    A weight that would not shrink stays as it is, with a warning. UnsupportedInput for other
    dtypes, and for rows of more than 16 million values.
    """
    if not isinstance(steps, int) or steps < 1:
        raise UnsupportedInput(f"expected at least one step, got {steps!r}; {STEPS} serves")

    def compress(w, statistics, axes):
        if w.dtype.name not in DTYPES:
            raise UnsupportedInput(
                f"expected a dtype among {', '.join(DTYPES)}, got {w.dtype}; cast it"
            )
        place = layout(w.shape, axes)
        if not place.free:
            raise UnsupportedInput(
                f"expected a weight with an axis that is not packed, got {w.shape} packed along "
                f"{place.axes}; leave it out with where="
            )
        if place.size_in >= 1 << PLACE_BITS:
            raise UnsupportedInput(
                f"expected rows of less than {1 << PLACE_BITS} values, got a weight {w.shape} "
                f"packed along {place.axes}; reshape it, or leave it out with where="
            )
        leaf = encode(np.asarray(w), place, steps)
        if leaf.nbytes < w.size * w.dtype.itemsize:
            return leaf
        warnings.warn(
            f"lossless: {leaf.nbytes} bytes for {w.size * w.dtype.itemsize} of a weight {w.shape}; "
            "it stays dense",
            stacklevel=2,
        )
        return w

    return Transform(compress, None, "lossless", exact=True)


def encode(w: np.ndarray, place: Layout, steps: int = STEPS) -> Lossless:
    """The leaf of a weight, whether it shrinks or not."""
    high, raw = _split(_matrix(w, place))
    paired = w.dtype.name != "float16"
    rows, lanes = _blocks(*high.shape, 2 if paired else 1, steps)
    blocks, count = -(-high.shape[0] // rows), rows * high.shape[1]
    used = _counts(high)
    order = np.argsort(-used, kind="stable").astype(np.uint8)
    # Rows that the last block has not are of the most frequent exponent.
    values = np.full(blocks * count, order[0], np.uint8)
    values[: high.size] = high.reshape(-1)
    values = values.reshape(blocks, count)
    escapes, kinds = None, None
    if paired:
        values, escapes, kinds = _paired(values, order)
    full = -(-values.shape[1] // lanes) * lanes
    values = np.pad(values, ((0, 0), (0, full - values.shape[1])))
    freq = frequencies(_counts(values))
    head, stack = _coded(values.reshape(blocks, -1, lanes), freq)
    (room,) = rooms([stack])
    parts = {"head": head, "freq": (freq - 1).astype(np.uint16)[None], "escapes": escapes}
    parts |= {"kinds": None if kinds is None else kinds[None], **room}
    depth, own, axis = parts.pop("depth"), len(place.free), merged_axis(place.packed)
    free = [place.shape[axis] for axis in place.free]
    return Lossless(
        jnp.asarray(np.moveaxis(raw.reshape(*free, -1), -1, axis)),
        **{name: placed(part, own, axis) for name, part in parts.items()},
        rows=rows,
        own=own,
        depth=depth,
        dtype=jnp.dtype(w.dtype),
        packed=place.packed,
    )


def _matrix(w: np.ndarray, place: Layout) -> np.ndarray:
    """[out, in], contiguous."""
    matrix = w.transpose(*place.free, *place.axes).reshape(place.size_out, place.size_in)
    if matrix.flags.c_contiguous:
        return matrix
    copy = np.empty(matrix.shape, matrix.dtype)
    for i in range(0, place.size_in, TILE):
        copy[:, i : i + TILE] = matrix[:, i : i + TILE]
    return copy


def _counts(values: np.ndarray) -> np.ndarray:
    """How often each byte occurs; two at a time, which bincount is quicker with."""
    flat = values.reshape(-1)
    whole = flat[: len(flat) // 2 * 2].view(np.uint16)
    pairs = np.bincount(whole, minlength=SYMBOLS**2).reshape(SYMBOLS, SYMBOLS)
    return pairs.sum(0) + pairs.sum(1) + np.bincount(flat[2 * len(whole) :], minlength=SYMBOLS)


def _split(matrix: np.ndarray) -> tuple[UInt8[np.ndarray, "out in"], UInt8[np.ndarray, "out n"]]:
    """(high bytes, the planes below them one after another along a row) of the rotated bits."""
    width = 8 * matrix.dtype.itemsize
    bits = matrix.view(f"u{width // 8}")
    rotated = bits << 1 | bits >> (width - 1)
    planes = [(rotated >> (8 * plane)).astype(np.uint8) for plane in range(width // 8)]
    return planes[-1], np.concatenate(planes[:-1], 1)


def _blocks(out: int, size: int, share: int, steps: int) -> tuple[int, int]:
    """(rows of a block, lanes): about LANES * steps symbols, in whole rows.

    Rows that divide the matrix, and so the devices it lies on, are taken where some are near.
    """
    symbols = out * size // share
    lanes = LANES
    while lanes > 1 and symbols < lanes * min(steps, LEAST_STEPS):
        lanes //= 2
    wanted = max(1, min(out, LANES * steps * share // size, (1 << PLACE_BITS) // size))
    near = [n for n in range(max(1, wanted // 2), wanted + 1) if out % n == 0]
    rows = near[-1] if near else -(-out // -(-out // wanted))
    return rows, lanes


def _paired(values: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(symbols [blocks, pairs], escapes [blocks, most], kinds) of high bytes [blocks, count]."""
    kinds = order[:KINDS]
    rank = np.full(SYMBOLS, KINDS - 1, np.uint8)
    rank[kinds] = np.arange(KINDS)
    kind = rank[values]
    block, at = np.nonzero(kinds[kind] != values)
    found = np.bincount(block, minlength=len(values))
    escapes = np.full((len(values), found.max(initial=1)), NO_ESCAPE, np.uint32)
    nth = np.arange(len(block)) - np.repeat(np.cumsum(found) - found, found)
    escapes[block, nth] = at.astype(np.uint32) << 8 | values[block, at]
    if kind.shape[1] % 2:
        kind = np.pad(kind, ((0, 0), (0, 1)))
    low, high = np.split(kind, 2, axis=1)
    return low | high << 4, escapes, kinds


def frequencies(counts: np.ndarray) -> UInt32[np.ndarray, " 256"]:
    """Integers of at least 1 that sum to 2**16, in proportion to counts."""
    spare = SLOTS - len(counts)
    freq = 1 + counts.astype(np.int64) * spare // max(1, int(counts.sum()))
    freq[np.argmax(freq)] += SLOTS - freq.sum()
    return freq.astype(np.uint32)


def _coded(
    symbols: UInt8[np.ndarray, "blocks steps lanes"], freq: UInt32[np.ndarray, " 256"]
) -> tuple[UInt32[np.ndarray, "blocks lanes"], UInt16[np.ndarray, "blocks capacity"]]:
    """(heads, stacks that end where their rows do)."""
    blocks, steps, lanes = symbols.shape
    table = (freq - 1) << 16 | (np.cumsum(freq, dtype=np.uint32) - freq)
    heads, stacks = [], []
    turn = max(1, AT_ONCE // (steps * lanes))
    for first in range(0, blocks, turn):
        some = symbols[first : first + turn]
        start = np.full((len(some), lanes), START, np.uint32)
        head, word, emit = rans_numpy.encode(start, table[some], precision=PRECISION)
        heads.append(head)
        # The last step and the last lane were pushed first: they are at the bottom.
        stacks += [
            w.reshape(-1)[::-1][e.reshape(-1)[::-1]] for w, e in zip(word, emit, strict=True)
        ]
    words = np.zeros((blocks, max(1, *map(len, stacks))), np.uint16)
    for row, stack in zip(words, stacks, strict=True):
        row[len(row) - len(stack) :] = stack
    return np.concatenate(heads), words
