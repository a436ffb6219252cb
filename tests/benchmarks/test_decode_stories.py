"""A cache that tells a story: the dense one tells the model's own."""

from functools import partial

import pytest

import jaxcomp as jc
from benchmarks import decode_stories
from benchmarks.models import stories, story_text
from tests.benchmarks.test_stories import CONTEXT, HEADS, checkpoint


def test_the_dense_cache_tells_what_the_model_does(tmp_path):
    (tmp_path / "tiny.bin").write_bytes(checkpoint(True)[0])
    params, _ = stories.load(tmp_path, "tiny.bin")
    start, count, heard = [9, 3], CONTEXT - 2, []
    cache = jc.kvcache.dense(CONTEXT)
    told = decode_stories.tell(
        params, cache, start, count, heads=HEADS, hear=lambda tokens: heard.append(list(tokens))
    )
    model = partial(stories.apply, heads=HEADS)
    expected = stories.greedy(model, params, start, count)[len(start) :]
    end = expected.index(story_text.BEGIN)  # this one ends before its count
    assert len(set(expected[:end])) == 4 and told.tokens == expected[:end]
    assert heard == [expected[: n + 1] for n in range(end)]


def test_what_is_the_same_is_counted_to_the_first_that_is_not():
    assert decode_stories.same([5, 6, 7, 8], [5, 6, 9, 8, 4]) == (3, 2)
    assert decode_stories.same([5, 6], [5, 6]) == (2, 2)


def test_the_help_lists_every_cache(capsys):
    with pytest.raises(SystemExit):
        decode_stories.arguments_of(["--help"])
    text = capsys.readouterr().out
    names = decode_stories.CACHES | decode_stories.FITTED
    assert all(f"  {name} " in text for name in names)
