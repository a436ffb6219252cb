"""The tokenizer of llama2.c, against its merges done one scan at a time, and batches of stories."""

import struct

import numpy as np
import pytest

from benchmarks.models import story_text
from jaxcomp.base import CorruptStream, JaxcompError

CONTROL = [b"<unk>", b"\n<s>\n", b"\n</s>\n"] + [b"<0x%02X>" % byte for byte in range(256)]
MERGED = [b"ab", b"abc", b" a", b"bc", b"aa", b"aaa", b"ca", b" ab"]
LETTERS = [b" ", b"a", b"b", b"c", "é".encode()]


def tokenizer_bytes() -> bytes:
    pieces = CONTROL + MERGED + LETTERS
    scores = [0.0] * len(CONTROL) + [-1.0 - i // 2 for i in range(len(MERGED))] + [-99.0] * 5
    data = struct.pack("<i", 8)
    for piece, score in zip(pieces, scores, strict=True):
        data += struct.pack("<fi", score, len(piece)) + piece
    return data


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "tok.bin").write_bytes(tokenizer_bytes())
    return story_text.read_tokenizer(tmp_path / "tok.bin")


def merged_by_scans(tokenizer, text):
    """Every round merges the best of all neighbours, the leftmost of equals."""
    tokens = story_text._characters(tokenizer, " " + text)
    while True:
        best = None
        for i in range(len(tokens) - 1):
            union = tokenizer.pieces[tokens[i]] + tokenizer.pieces[tokens[i + 1]]
            token = tokenizer.tokens.get(union)
            if token is not None and (best is None or tokenizer.scores[token] > best[0]):
                best = tokenizer.scores[token], i, token
        if best is None:
            return [story_text.BEGIN, *tokens]
        tokens[best[1] : best[1] + 2] = [best[2]]


def test_merges_go_by_score_from_the_left(tokenizer):
    generator = np.random.default_rng(0)
    for length in range(1, 60):
        text = "".join(generator.choice(list("aaabc "), length))
        assert story_text.encode(tokenizer, text) == merged_by_scans(tokenizer, text)


def test_texts_come_back(tokenizer):
    for text in ("abc", " a  b", "aaaaé ☃ \n!", "a"):
        tokens = story_text.encode(tokenizer, text)
        assert tokens[0] == story_text.BEGIN
        assert story_text.decode(tokenizer, tokens) == text
    assert story_text.encode(tokenizer, "") == [story_text.BEGIN]
    snowman = [story_text.FIRST_BYTE + byte for byte in "☃".encode()]
    assert story_text.encode(tokenizer, "☃", begin=False)[1:] == snowman


def test_truncated_tokenizers_are_refused(tmp_path):
    data = tokenizer_bytes()
    for wrong in (data[:-1], data[:-6], data[:100], data + struct.pack("<fi", 0, -5), b""):
        (tmp_path / "tok.bin").write_bytes(wrong)
        with pytest.raises(CorruptStream, match="fetch the file again"):
            story_text.read_tokenizer(tmp_path / "tok.bin")


def test_stories_are_whole_and_counted(tmp_path):
    mark = story_text.SEPARATOR
    (tmp_path / "t.txt").write_text(f"\none\n{mark}\n\ntwo\n{mark}\nthree{mark}\ncut off")
    assert story_text.stories(tmp_path / "t.txt") == ["one", "two", "three"]
    assert story_text.stories(tmp_path / "t.txt", 1, 1) == ["two"]
    with pytest.raises(JaxcompError, match="ask for fewer"):
        story_text.stories(tmp_path / "t.txt", 2, 2)


def test_batches_have_one_shape_and_a_mask(tokenizer):
    texts = ["a", "abcabcabc", "c c"]
    found = story_text.batches(tokenizer, texts, batch=2, length=4)
    assert [tokens.shape for tokens, _ in found] == [(2, 4), (2, 4)]
    tokens, mask = (np.concatenate(parts) for parts in zip(*found, strict=True))
    assert tokens.dtype == np.int32 and not mask[3].any()
    for row, text in enumerate(texts):
        expected = story_text.encode(tokenizer, text)[:4]
        assert tokens[row, mask[row]].tolist() == expected
        assert (tokens[row, ~mask[row]] == story_text.END).all()
    for options in ({"batch": 0}, {"batch": 1, "length": 513}):
        with pytest.raises(JaxcompError, match="a length of 2"):
            story_text.batches(tokenizer, texts, **options)
