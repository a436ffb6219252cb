"""The rANS message of a compiled decoder: its shapes are the image's, not those of the bytes."""

import numpy as np

from jaxcomp import coding
from jaxcomp.base import CorruptStream
from jaxcomp.coding.stream import Stream


def read_message(data: bytes, *, lanes: int, words: int, escapes: int = 0) -> Stream:
    """The stream of one group in `data`, with room for so many words and escapes.

    Raises CorruptStream for other lanes, and for more than there is room for.
    """
    stream = coding.from_bytes(data, max_escapes=escapes)
    if stream.halved is not None:
        raise CorruptStream("expected a stream that is popped in parts, got one of a whole message")
    if stream.head.shape != (1, lanes) or int(stream.size[0]) > words:
        raise CorruptStream(
            f"expected 1 group of {lanes} lanes with at most {words} words, got "
            f"{stream.head.shape[0]} of {stream.head.shape[1]} with {int(stream.size.max())}"
        )
    room = np.zeros((1, words), np.uint16)
    room[:, : stream.size[0]] = stream.words[:, : stream.size[0]]
    padded = np.pad(stream.escapes, (0, escapes - len(stream.escapes)))
    return stream._replace(words=room, escapes=padded)
