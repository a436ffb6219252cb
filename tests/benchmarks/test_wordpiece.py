"""Word pieces, on sentences whose tokens follow from the rules by hand."""

import numpy as np
import pytest

from benchmarks.models import wordpiece
from jaxcomp.base import CorruptStream, JaxcompError

PIECES = [
    *wordpiece.SPECIAL,
    *("play", "##ing", "##ed", "cafe", "un", "##play", "##p", ",", "!", "東", "##a", "a", "re"),
]


@pytest.fixture
def vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return wordpiece.read_vocabulary(tmp_path / "vocab.txt")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Playing, CAFÉ!", "play ##ing , cafe !"),
        ("unplayed", "un ##play ##ed"),  # the longest piece first: not ##p
        ("play東play", "play 東 play"),
        ("pl\u200bay\u00a0re\x00\tplay", "play re play"),
        ("player re$a", "[UNK] re [UNK] a"),  # a word is whole or unknown; symbols stand alone
        ("a" * 100, " ".join(["a"] + ["##a"] * 99)),
        ("a" * 101, "[UNK]"),
        ("", ""),
    ],
)
def test_words_are_cut_into_the_longest_pieces(vocabulary, text, expected):
    tokens = wordpiece.encode(vocabulary, text)
    assert [PIECES[token] for token in tokens] == ["[CLS]", *expected.split(), "[SEP]"]


def test_batches_have_one_shape_and_a_mask(vocabulary):
    texts = ["play", "play, play, play", "re"]
    found = wordpiece.batches(vocabulary, texts, batch=2, length=5)
    assert [tokens.shape for tokens, _ in found] == [(2, 5), (2, 5)]
    tokens, mask = (np.concatenate(parts) for parts in zip(*found, strict=True))
    assert tokens.dtype == np.int32 and mask.sum(1).tolist() == [3, 5, 3, 0]
    assert [PIECES[token] for token in tokens[1]] == "[CLS] play , play [SEP]".split()
    assert (tokens[~mask] == vocabulary["[PAD]"]).all()
    with pytest.raises(JaxcompError, match="length >= 2"):
        wordpiece.batches(vocabulary, texts, batch=1, length=1)


def test_vocabularies_without_special_pieces_are_refused(tmp_path):
    path = tmp_path / "vocab.txt"
    for wrong in (b"[PAD]\n[UNK]\n[CLS]\nplay", b"", b"\xff\xfe"):
        path.write_bytes(wrong)
        with pytest.raises(CorruptStream, match="fetch it again"):
            wordpiece.read_vocabulary(path)
