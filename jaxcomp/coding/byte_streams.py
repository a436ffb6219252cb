"""Symbols of bytes <-> heads and words on the host: kernels/rans_bytes.py, padded to few shapes.

Lanes are 16 to 1024 by powers of 4, as many as leave 256 symbols for each, or 16. A head takes
16 bits more than it needs, which carry some of what is not coded. Steps are padded to powers of
two; a program takes a quarter of a second to compile, and runs as many steps as there are. So that
small planes need few, theirs always read a class.
"""

import functools
import threading

import jax
import numpy as np

from jaxcomp.base import CorruptStream
from jaxcomp.kernels import rans_bytes
from jaxcomp.kernels.rans_bytes import EMITS, KINDS, MARKED, SYMBOLS

LEAST_LANES, MOST_LANES = 4, 10  # log2
STEPS = 256  # of a lane, at least
NONE = np.zeros((1, 1), np.uint8)
LOCAL = threading.local()
ALIGNED = 32  # words
HELD = 1 << 22  # words that a thread keeps


def encode(
    symbols: np.ndarray,
    index: np.ndarray | None,
    cargo: np.ndarray,
    rank: np.ndarray,
    last: int,
    frequencies: np.ndarray,
    precision: int,
    paired: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(heads, words, positions of symbols with a byte of rank `last`).

    cargo: u16 of each lane, for what a first head has more than it needs.
    """
    lanes = lanes_for(symbols.size)
    steps = _steps(symbols.size, lanes)
    classes = _classes(index, steps, lanes)
    marked = np.arange(SYMBOLS) == last
    if paired:
        marked = (np.arange(SYMBOLS) % KINDS == last) | (np.arange(SYMBOLS) // KINDS == last)
    with jax.default_device(_host()):
        head, word, flags = map(
            np.asarray,
            rans_bytes.encode(
                cargo.astype(np.uint32) | np.uint32(1 << 16),
                _padded(symbols, steps, lanes),
                classes,
                rank,
                rans_bytes.encoding_table(frequencies, marked),
                np.uint32(precision),
                np.int32(symbols.size),
                paired=paired,
                classed=classes is not NONE,
            ),
        )
    used = slice(-(-symbols.size // lanes) * lanes)
    flags = flags.reshape(-1)[used]
    words = np.compress((flags & EMITS).view(bool), word.reshape(-1)[used])
    return head, words, np.flatnonzero((flags & MARKED).view(bool))


def lanes_for(count: int) -> int:
    """Lanes of so many symbols."""
    return 1 << min(max((count // STEPS).bit_length() - 1, LEAST_LANES) & ~1, MOST_LANES)


def decode(
    head: np.ndarray,
    words: np.ndarray,
    index: np.ndarray | None,
    frequencies: np.ndarray,
    precision: int,
    values: np.ndarray,
    count: int,
    paired: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """(u8[count], or u16[count] of pairs, read-only; cargo). CorruptStream unless all is used."""
    lanes = len(head)
    steps = _steps(count, lanes)
    classes = _classes(index, steps, lanes)
    padded = _held(steps * lanes + lanes)  # what follows is never part of a stream
    padded[: len(words)] = words
    with jax.default_device(_host()):
        out, left, taken = rans_bytes.decode(
            head,
            padded,
            classes,
            rans_bytes.decoding_table(frequencies),
            values,
            np.uint32(precision),
            np.int32(count),
            steps=steps,
            paired=paired,
            classed=classes is not NONE,
        )
    left = np.asarray(left)
    if int(taken) != len(words) or (left >> 16 != 1).any():
        raise CorruptStream(f"expected to use {len(words)} words, got to {int(taken)}; damaged?")
    return np.asarray(out).reshape(-1)[:count], left.astype(np.uint16)


def _held(size):
    """u16[size], the same memory at each call of a thread: fresh pages cost more than the copy.

    It begins where XLA takes an array as it is.
    """
    found = getattr(LOCAL, "words", None)
    if found is None or found.size < size:
        whole = np.empty(size + ALIGNED, np.uint16)
        found = whole[-whole.ctypes.data % (2 * ALIGNED) // 2 :][:size]
        if size <= HELD:
            LOCAL.words = found
    return found[:size]


def _steps(count, lanes):
    """Steps of the compiled shape: at least the most that a stream of few lanes has."""
    needed = -(-count // lanes)
    return max(1 << max(needed - 1, 0).bit_length(), 4 * STEPS)


def _classes(index, steps, lanes):
    if index is not None:
        return _padded(index, steps, lanes)
    return NONE if lanes == 1 << MOST_LANES else np.zeros((steps, lanes), np.uint8)


def _padded(flat, steps, lanes):
    if flat.size == steps * lanes:
        return flat.reshape(steps, lanes)
    plane = np.empty(steps * lanes, flat.dtype)
    plane[: flat.size] = flat
    plane[flat.size :][:lanes] = 0  # of the last step; those after it are not looked at
    return plane.reshape(steps, lanes)


@functools.cache
def _host():
    """The CPU, also where the default device is another; that one where there is no CPU."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None
