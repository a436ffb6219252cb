"""The last symbols of a message on half of its lanes: what they make starts the other half.

A lane starts at 2**16, so 16 bits of its head say nothing. Where a few lanes code a whole message,
the symbols at its end, which are coded first, take half of them; the words that these emit are
then the initial states of the others, 2**16 + word, instead of zeros. Where these symbols have bits
enough, a lane costs 12 bits instead of 20 (half of them 20, half of them 4); the steps at the end
are twice as many.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcomp.coding.stream import HALVED_BITS, INITIAL_HEAD, MAX_HALVED, Stream

TAIL = 32  # symbols per lane: at 12 bits, what fills the other half at 0.4 bits a symbol


def tail_length(count: int, lanes: int) -> int:
    """How many of `count` symbols, at the end, are coded on half of the lanes."""
    return min(TAIL * lanes, count // 2) if 2 <= lanes <= MAX_HALVED else 0


def fills_tails(bits: float, count: int) -> bool:
    """Whether the last of `count` symbols, of `bits` in all, have what starts the other lanes."""
    return TAIL * bits >= HALVED_BITS * count


def split_tail(values: Any, tail: int) -> tuple[Any, Any]:
    """(all but the last `tail`, these), in C order; None of None."""
    if values is None:
        return None, None
    flat = values.reshape(-1)
    return flat[: flat.size - tail], flat[flat.size - tail :]


def widen(stream: Stream) -> Stream:
    """Twice the lanes: words from the top of the stack start the new ones, then zeros."""
    xp = _module(stream)
    head, words, size = stream.head, stream.words, stream.size[..., None]
    lanes = head.shape[-1]
    place = size - 1 - np.arange(lanes, dtype=np.int32)
    word = _take(xp, words, place)
    head = xp.concatenate([head, word | np.uint32(INITIAL_HEAD)], -1)
    return stream._replace(head=head, size=xp.maximum(stream.size - np.int32(lanes), 0))


def narrow(stream: Stream) -> Stream:
    """What widen widened, zeros below its words where there were too few of them.

    Lanes that no widening made set `overflow`.
    """
    xp = _module(stream)
    lanes = stream.head.shape[-1] // 2
    head, new = stream.head[..., :lanes], stream.head[..., lanes:]
    capacity = stream.words.shape[-1] + lanes
    place = np.arange(capacity, dtype=np.int32)
    rank = stream.size[..., None] + np.int32(lanes - 1) - place  # from the top of the stack
    words = xp.where(rank < lanes, _take(xp, new, rank), _take(xp, stream.words, place + 0 * rank))
    wrong = (new >> np.uint32(16) != 1).any((-2, -1))
    return stream._replace(
        head=head,
        words=words.astype(np.uint16),
        size=stream.size + np.int32(lanes),
        overflow=stream.overflow | wrong,
    )


def without_zeros(stream: Stream) -> Stream:
    """The narrowed stream without the zeros that narrow may have put at its bottom."""
    xp = _module(stream)
    lanes, size = stream.head.shape[-1], stream.size[..., None]
    bottom = stream.words[..., :lanes]
    used = np.arange(lanes, dtype=np.int32) < size
    empty = (size <= lanes) & (size >= 0) & ~(used & (bottom != 0))
    return stream._replace(size=xp.where(empty.all(-1), np.int32(0), stream.size))


def _module(stream: Stream) -> Any:
    """NumPy for arrays of the host, which then compile nothing."""
    return np if isinstance(stream.head, np.ndarray) else jnp


def _take(xp, values, place):
    """values[..., place] as u32, and 0 where place is outside."""
    inside = (place >= 0) & (place < values.shape[-1])
    found = xp.take_along_axis(values, xp.where(inside, place, 0), -1)
    return xp.where(inside, found.astype(np.uint32), np.uint32(0))
