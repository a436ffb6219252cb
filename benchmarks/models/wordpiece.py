"""Text as the word pieces of BERT, lower-cased and without accents (Devlin et al. 2019).

A text is cleaned of control characters, split at spaces, around punctuation and around Chinese
characters; each word is then cut into the longest pieces of the vocabulary, from the left (Schuster
and Nakajima 2012). Pieces inside a word start with ##. A word that cannot be cut is one [UNK].
"""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxcomp.base import CorruptStream, JaxcompError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LONGEST_WORD = 100  # characters; longer ones are [UNK], as in BERT
LONGEST_TEXT = 256  # tokens that all-MiniLM-L6-v2 was made for
REPLACEMENT = "\ufffd"  # what decoders put where bytes were no character
CONTROL = ("Cc", "Cf", "Cn", "Co")
CHINESE = (  # the blocks of Han characters that BERT splits into single ones
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def read_vocabulary(path: str | Path) -> dict[str, int]:
    """The token of each piece of a vocab.txt, which has one to a line."""
    try:
        pieces = Path(path).read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CorruptStream(
            f"expected UTF-8 in {Path(path).name}, got {error}; fetch it again"
        ) from error
    vocabulary = {piece: token for token, piece in enumerate(pieces) if piece}
    missing = [piece for piece in SPECIAL if piece not in vocabulary]
    if missing:
        raise CorruptStream(
            f"expected pieces {SPECIAL} in {Path(path).name}, got none for {missing}; "
            "fetch it again"
        )
    return vocabulary


def _stands_alone(character: str) -> bool:
    code = ord(character)
    symbol = character.isascii() and character.isprintable() and not character.isalnum()
    return (
        (symbol and character != " ")
        or unicodedata.category(character).startswith("P")
        or any(first <= code <= last for first, last in CHINESE)
    )


def words(text: str) -> list[str]:
    """Words and punctuation marks in lower case, without accents and control characters."""
    cleaned = []
    for character in text:
        if character.isspace():
            cleaned.append(" ")
        elif character != REPLACEMENT and unicodedata.category(character) not in CONTROL:
            cleaned.append(character)
    text = unicodedata.normalize("NFD", "".join(cleaned))
    text = "".join(c for c in text if unicodedata.category(c) != "Mn").lower()
    return "".join(f" {c} " if _stands_alone(c) else c for c in text).split()


def _cut(vocabulary: dict[str, int], word: str) -> list[int]:
    found, start = [], 0
    while start < len(word) <= LONGEST_WORD:
        prefix = "##" if start else ""
        for end in range(len(word), start, -1):
            token = vocabulary.get(prefix + word[start:end])
            if token is not None:
                break
        else:
            return [vocabulary["[UNK]"]]
        found.append(token)
        start = end
    return found or [vocabulary["[UNK]"]]


def encode(vocabulary: dict[str, int], text: str, *, length: int = LONGEST_TEXT) -> list[int]:
    """[CLS], the tokens of a text cut at length - 2, [SEP]."""
    found = [token for word in words(text) for token in _cut(vocabulary, word)]
    return [vocabulary["[CLS]"], *found[: length - 2], vocabulary["[SEP]"]]


def batches(
    vocabulary: dict[str, int], texts: Sequence[str], *, batch: int, length: int = LONGEST_TEXT
) -> list[tuple[np.ndarray, np.ndarray]]:
    """[(tokens i32[batch, length], mask bool[batch, length])], one row for each text in order.

    Rows are cut at `length`, or filled with [PAD] where mask is false; the last batch is filled
    with rows of mask false, so that all have one shape.
    """
    if batch < 1 or length < 2:
        raise JaxcompError(f"expected batch >= 1 and length >= 2, got {batch} and {length}")
    rows = -(-len(texts) // batch) * batch
    tokens = np.full((rows, length), vocabulary["[PAD]"], np.int32)
    mask = np.zeros((rows, length), bool)
    for row, text in enumerate(texts):
        found = encode(vocabulary, text, length=length)
        tokens[row, : len(found)], mask[row, : len(found)] = found, True
    return [(tokens[at : at + batch], mask[at : at + batch]) for at in range(0, rows, batch)]
