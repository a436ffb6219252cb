"""Symbols of bytes <-> heads and words on the host: kernels/rans_bytes.py, padded to few shapes.

Lanes are 4 to 1024 by powers of 4, so that each has at least 512 symbols: a head takes 16 bits
more than it holds. Steps are padded to powers of two; a program takes a quarter of a second to
compile, and runs as many steps as there are.
"""

import functools

import jax
import numpy as np

from jaxcomp.base import CorruptStream
from jaxcomp.kernels import rans_bytes

MOST_LANES = 10  # log2
STEPS = 512  # of a lane, at least
NONE = np.zeros((1, 1), np.uint8)


def encode(
    symbols: np.ndarray,
    index: np.ndarray | None,
    rank: np.ndarray,
    last: int,
    frequencies: np.ndarray,
    precision: int,
    paired: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(heads, words, positions of symbols with a byte of rank `last`)."""
    lanes = 1 << min(max((symbols.size // STEPS).bit_length() - 1, 2) & ~1, MOST_LANES)
    steps = _steps(symbols.size, lanes)
    classes = NONE if index is None else _padded(index, steps, lanes)
    with jax.default_device(_host()):
        head, word, emit, escaped = map(
            np.asarray,
            rans_bytes.encode(
                _padded(symbols, steps, lanes),
                classes,
                rank,
                np.uint8(last),
                rans_bytes.encoding_table(frequencies),
                np.uint32(precision),
                np.int32(symbols.size),
                paired=paired,
                classed=index is not None,
            ),
        )
    used = slice(-(-symbols.size // lanes) * lanes)
    words = np.compress(emit.reshape(-1)[used], word.reshape(-1)[used])
    return head, words, np.flatnonzero(escaped.reshape(-1)[used])


def decode(
    head: np.ndarray,
    words: np.ndarray,
    index: np.ndarray | None,
    frequencies: np.ndarray,
    precision: int,
    values: np.ndarray,
    count: int,
    paired: bool,
) -> np.ndarray:
    """u8[count], or u16[count] of pairs, read-only. CorruptStream unless all of it is used."""
    lanes = len(head)
    steps = _steps(count, lanes)
    padded = np.empty(steps * lanes + lanes, np.uint16)  # what follows is never part of a stream
    padded[: len(words)] = words
    with jax.default_device(_host()):
        out, left, taken = rans_bytes.decode(
            head,
            padded,
            NONE if index is None else _padded(index, steps, lanes),
            rans_bytes.decoding_table(frequencies),
            values,
            np.uint32(precision),
            np.int32(count),
            steps=steps,
            paired=paired,
            classed=index is not None,
        )
    if int(taken) != len(words) or (np.asarray(left) != 1 << 16).any():
        raise CorruptStream(f"expected to use {len(words)} words, got to {int(taken)}; damaged?")
    return np.asarray(out).reshape(-1)[:count]


def _steps(count, lanes):
    """Steps of the compiled shape: of few lanes there are at most 4096."""
    needed = -(-count // lanes)
    return 4 * STEPS if lanes < 1 << MOST_LANES and needed <= 4 * STEPS else _power(needed)


def _power(n):
    return max(1 << max(n - 1, 0).bit_length(), 2 * STEPS)


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
