"""Lossless: exponents entropy-coded, signs and mantissas as they are; every bit comes back.

Costs the order-0 entropy of pairs of exponents (formats/lossless.py says how), 0.3 % of it for
integer frequencies, 4 bytes per lane, and what the words of a block need less than those of the
longest. Of Gaussian weights [1024, 4096] 66.3 % of the bytes of bfloat16 are left, 84.9 % of
float16, 83.2 % of float32; of the matrices of MiniLM-L6 67.0 % of bfloat16, 0.24 % above entropy
and heads, and 83.5 % of float32. DFloat11 keeps about 70 % of bfloat16 (Zhang et al.,
arXiv:2504.11651).

Decoding writes 1.0 to 1.2 GB/s of bfloat16 on a CPU where rows are packed, 0.4 to 0.8 where columns
are (the kernels of Flax), 1.3 to 2 of float32, 0.6 of float16: a product with few rows is then two
to six times as long as with the dense weight, and it is memory that is saved. Encoding, on two
cores, takes 300 to 430 MB/s of bfloat16 and float16 and 650 of float32 in large matrices, 150 to
250 in small ones. Gradients reach what such weights are multiplied by; they themselves are frozen:
jax.grad by them is jax's TypeError for integers.
"""

import functools
import math
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
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
from jaxcomp.kernels import rans_lax, rans_numpy

LANES = 128  # of a block: a register of a TPU, a warp of a GPU with four each
STEPS = 256  # symbols of a lane: its 4 bytes are then under 1 % of what it codes
LEAST_STEPS = 64  # smaller matrices have fewer lanes rather than shorter ones
AT_ONCE = 1 << 20  # symbols encoded at a time: their words stay in cache
# Symbols of a matrix for which compiling the coder, a fifth of a second once, is worth it.
COMPILED = 1 << 19
WHOLE = np.uint32(0xFFFF0000)  # an interval of all there is: a state that is coded with it stays
PIECE = 1 << 14  # pairs looked up at a time
NO_KIND, HIGH_BITS = 255, np.uint64(0x8080808080808080)
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
    used = sum(_turns(_counts, high))
    order = np.argsort(-used, kind="stable").astype(np.uint8)
    values = high.reshape(-1)
    if values.size < blocks * count:  # rows that the last block has not: the most frequent exponent
        values = np.pad(values, (0, blocks * count - values.size), constant_values=order[0])
    values = values.reshape(blocks, count)
    escapes, kinds = None, None
    if paired:
        values, escapes, kinds = _paired(values, order)
    if short := -values.shape[1] % lanes:
        values = np.pad(values, ((0, 0), (0, short)))
    freq = frequencies(sum(_turns(_counts, values)))
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


def _turns(function: Callable[[np.ndarray], Any], values: np.ndarray) -> list[Any]:
    """function of some rows at a time, which stay in cache, by all cores."""
    each = max(1, AT_ONCE // max(1, math.prod(values.shape[1:])))
    parts = [values[first : first + each] for first in range(0, len(values), each)]
    if len(parts) < 2:
        return list(map(function, parts))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, parts))


def _counts(values: np.ndarray) -> np.ndarray:
    """How often each byte occurs; two at a time, which bincount is quicker with."""
    flat = values.reshape(-1)
    whole = flat[: len(flat) // 2 * 2].view(np.uint16)
    pairs = np.bincount(whole, minlength=SYMBOLS**2).reshape(SYMBOLS, SYMBOLS)
    return pairs.sum(0) + pairs.sum(1) + np.bincount(flat[2 * len(whole) :], minlength=SYMBOLS)


def _split(matrix: np.ndarray) -> tuple[UInt8[np.ndarray, "out in"], UInt8[np.ndarray, "out n"]]:
    """(high bytes, the planes below them one after another along a row) of the rotated bits."""
    nbytes, (out, size) = matrix.dtype.itemsize, matrix.shape
    high = np.empty((out, size), np.uint8)
    raw = np.empty((out, nbytes - 1, size), np.uint8)

    def fill(rows):
        bits = matrix[rows].view(f"u{nbytes}")
        rotated = bits << 1 | bits >> (8 * nbytes - 1)
        for plane in range(nbytes - 1):
            raw[rows, plane] = rotated >> (8 * plane)
        high[rows] = rotated >> (8 * nbytes - 8)

    each = max(1, AT_ONCE // size // nbytes)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, (slice(i, i + each) for i in range(0, out, each))))
    return high, raw.reshape(out, -1)


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
    rank = np.full(SYMBOLS, NO_KIND, np.uint8)
    rank[kinds] = np.arange(KINDS)
    both = (rank[None] | rank.astype(np.uint16)[:, None] << 8).reshape(-1)

    def pair(some):
        kind = _looked_up(some.reshape(-1), rank, both)
        at = _marked(kind)
        kind[at] = KINDS - 1
        kind = kind.reshape(some.shape)
        if some.shape[1] % 2:
            kind = np.pad(kind, ((0, 0), (0, 1)))
        low, high = np.split(kind, 2, axis=1)
        return low | high << 4, at, some.reshape(-1)[at]

    symbols, places, escaped = zip(*_turns(pair, values), strict=True)
    first = np.cumsum([0, *map(len, symbols)]) * values.shape[1]
    at = np.concatenate([x + before for x, before in zip(places, first, strict=False)])
    block, at = np.divmod(at, values.shape[1])
    found = np.bincount(block, minlength=len(values))
    escapes = np.full((len(values), found.max(initial=1)), NO_ESCAPE, np.uint32)
    nth = np.arange(len(block)) - np.repeat(np.cumsum(found) - found, found)
    escapes[block, nth] = at.astype(np.uint32) << 8 | np.concatenate(escaped)
    return np.concatenate(symbols), escapes, kinds


def _looked_up(values: np.ndarray, table: np.ndarray, both: np.ndarray) -> np.ndarray:
    """table[values] of bytes, two at a time: both is the table of pairs."""
    found, even = np.empty_like(values), len(values) // 2 * 2
    pairs, into = values[:even].view(np.uint16), found[:even].view(np.uint16)
    for i in range(0, len(pairs), PIECE):  # take makes indices of 8 bytes first
        np.take(both, pairs[i : i + PIECE], out=into[i : i + PIECE], mode="clip")
    found[even:] = table[values[even:]]
    return found


def _marked(kind: np.ndarray) -> np.ndarray:
    """Where kind is NO_KIND, which alone has its highest bit set; seen by eights, for few are."""
    whole = len(kind) // 8 * 8
    some = np.flatnonzero(kind[:whole].view(np.uint64) & HIGH_BITS)
    near = np.concatenate([(some[:, None] * 8 + np.arange(8)).reshape(-1), range(whole, len(kind))])
    near = near.astype(np.int64)
    return near[kind[near] == NO_KIND]


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
    blocks, _, lanes = symbols.shape
    table = (freq - 1) << 16 | (np.cumsum(freq, dtype=np.uint32) - freq)
    large = symbols.size >= COMPILED

    def code(some):
        if large:
            head, word, emit = _compiled(some, table)
        else:
            start = np.full((len(some), lanes), START, np.uint32)
            head, word, emit = rans_numpy.encode(start, table[some], precision=PRECISION)
        # The last step and the last lane were pushed first: they are at the bottom.
        return head, [w[e][::-1] for w, e in zip(word, emit, strict=True)]

    heads, found = zip(*_turns(code, symbols), strict=True)
    stacks = [stack for some in found for stack in some]
    words = np.zeros((blocks, max(1, *map(len, stacks))), np.uint16)
    for row, stack in zip(words, stacks, strict=True):
        row[len(row) - len(stack) :] = stack
    return np.concatenate(heads), words


def _compiled(
    symbols: UInt8[np.ndarray, "blocks steps lanes"], table: UInt32[np.ndarray, " 256"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What rans_numpy.encode gives, five times as fast, by one program for nearly all matrices."""
    blocks, steps, lanes = symbols.shape
    full = -(-steps // STEPS) * STEPS
    groups = max(1, AT_ONCE // (full * lanes))
    padded = np.zeros((full, max(groups, blocks), lanes), np.uint8)
    padded[:steps, :blocks] = symbols.swapaxes(0, 1)
    with jax.default_device(_host()):
        found = _program(padded, np.arange(full) < steps, table)
    head, word, emit = map(np.asarray, found)
    return head[:blocks], word[:blocks, :steps], emit[:blocks, :steps]


@functools.cache
def _host():
    """The CPU, also where the default device is another; that one where there is no CPU."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


@jax.jit
def _program(symbols, valid, table):
    def interval(_, step):
        symbol, valid = step
        return None, jnp.where(valid, table[symbol], WHOLE)

    start = jnp.full(symbols.shape[1:], START, jnp.uint32)
    steps = symbols, valid
    return rans_lax.encode_steps(start, steps, interval, None, precision=PRECISION)[:3]
