"""Stories as tokens: the tokenizer of stories260K, the reader of TinyStories, and batches.

The tokenizer is a vocabulary with scores, written by llama2.c (A. Karpathy, MIT): one int32, the
longest piece, then for each piece a float32 score, an int32 length and its bytes. A text is split
into characters and the neighbours whose union has the best score are merged until none has any:
byte-pair encoding as SentencePiece does it (Kudo and Richardson 2018). Characters outside the
vocabulary become bytes.
"""

import heapq
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxcomp.base import CorruptStream, JaxcompError

BEGIN, END = 1, 2  # the tokens before and after a story
FIRST_BYTE = 3  # token of byte 0; the other 255 follow
SEPARATOR = "<|endoftext|>"
CONTEXT = 512  # of stories260K
LONGEST_PIECE = 1 << 16  # bytes; the longest of tok512 has 7


class Tokenizer(NamedTuple):
    """Pieces and scores by token, and the token of each piece."""

    pieces: list[bytes]
    scores: list[float]
    tokens: dict[bytes, int]


def read_tokenizer(path: str | Path) -> Tokenizer:
    """A tokenizer file; CorruptStream where a piece goes past the end of it."""
    data = Path(path).read_bytes()
    pieces, scores, at = [], [], 4
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at) if at + 8 <= len(data) else (0.0, -1)
        if not 0 <= length <= min(LONGEST_PIECE, len(data) - at - 8):
            raise CorruptStream(
                f"expected a whole piece at byte {at} of {Path(path).name}, got a length of "
                f"{length} with {len(data) - at} bytes left; fetch the file again"
            )
        pieces.append(data[at + 8 : at + 8 + length])
        scores.append(score)
        at += 8 + length
    if len(pieces) < FIRST_BYTE + 256:
        raise CorruptStream(
            f"expected at least {FIRST_BYTE + 256} pieces in {Path(path).name}, got {len(pieces)}; "
            "fetch the file again"
        )
    tokens: dict[bytes, int] = {}
    for token, piece in enumerate(pieces):
        tokens.setdefault(piece, token)
    return Tokenizer(pieces, scores, tokens)


def _characters(tokenizer: Tokenizer, text: str) -> list[int]:
    found = []
    for character in text:
        data = character.encode()
        token = tokenizer.tokens.get(data)
        found += [byte + FIRST_BYTE for byte in data] if token is None else [token]
    return found


def encode(tokenizer: Tokenizer, text: str, *, begin: bool = True) -> list[int]:
    """The tokens of a text, with a space put before it and BEGIN before that.

    Merges go by score, among equals from the left. An empty text is BEGIN alone.
    """
    tokens = _characters(tokenizer, " " + text if text else "")
    end = len(tokens)
    before, after = list(range(-1, end - 1)), list(range(1, end + 1))
    waiting: list[tuple[float, int, int, int, int]] = []

    def propose(left: int) -> None:
        right = after[left] if left >= 0 else end
        if right < end:
            pair = tokens[left], tokens[right]
            token = tokenizer.tokens.get(b"".join(tokenizer.pieces[part] for part in pair))
            if token is not None:
                heapq.heappush(waiting, (-tokenizer.scores[token], left, token, *pair))

    for left in range(end):
        propose(left)
    while waiting:
        _, left, token, *pair = heapq.heappop(waiting)
        right = after[left]
        if right == end or [tokens[left], tokens[right]] != pair:
            continue  # one of the two has been merged since
        tokens[left], tokens[right], after[left] = token, -1, after[right]
        if after[right] < end:
            before[after[right]] = left
        propose(before[left])
        propose(left)
    return [BEGIN] * begin + [token for token in tokens if token >= 0]


def decode(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """The text of tokens; the space that `encode` puts first is taken away after BEGIN."""
    data, previous = b"", END
    for token in tokens:
        piece = tokenizer.pieces[token]
        if FIRST_BYTE <= token < FIRST_BYTE + 256:
            piece = bytes([token - FIRST_BYTE])
        elif token in (BEGIN, END):
            piece = b""
        elif previous == BEGIN:
            piece = piece.removeprefix(b" ")
        data, previous = data + piece, token
    return data.decode("utf-8", "replace")


def stories(path: str | Path, n: int | None = None, skip: int = 0) -> list[str]:
    """Stories skip to skip + n of a file with SEPARATOR between them; all that are left for None.

    What comes after the last separator is no whole story and is left out.
    """
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    whole = [story.strip() for story in text.split(SEPARATOR)[:-1]]
    found = [story for story in whole if story][skip:][:n]
    if not found or (n is not None and len(found) < n):
        raise JaxcompError(
            f"expected {n or 'some'} stories after the first {skip} of {Path(path).name}, got "
            f"{len(found)}; ask for fewer"
        )
    return found


def batches(
    tokenizer: Tokenizer, texts: Sequence[str], *, batch: int, length: int = CONTEXT
) -> list[tuple[np.ndarray, np.ndarray]]:
    """[(tokens i32[batch, length], mask bool[batch, length])], one row for each text in order.

    Rows are cut at `length`, or filled with END where mask is false; the last batch is filled with
    rows of mask false, so that all have one shape. What a row is filled with goes through the model
    too: statistics of inputs want texts of at least `length` tokens.
    """
    if batch < 1 or not 2 <= length <= CONTEXT:
        raise JaxcompError(
            f"expected batch >= 1 and a length of 2 to {CONTEXT}, got {batch} and {length}"
        )
    rows = -(-len(texts) // batch) * batch
    tokens, mask = np.full((rows, length), END, np.int32), np.zeros((rows, length), bool)
    for row, text in enumerate(texts):
        found = encode(tokenizer, text)[:length]
        tokens[row, : len(found)], mask[row, : len(found)] = found, True
    return [(tokens[at : at + batch], mask[at : at + batch]) for at in range(0, rows, batch)]
