"""plan: in time where anything is, and as fine as that allows."""

import numpy as np
import pytest

import jaxcomp as jc

# Eight chunks in four levels, finest first; the chunks differ.
NBYTES = np.outer([9, 10, 12, 10, 8, 11, 10, 10], [80, 60, 45, 30]) * 1000


def seconds(levels, bandwidth):
    return NBYTES[np.arange(len(levels)), levels].sum() / bandwidth


def test_the_finest_that_is_in_time():
    assert jc.kvcache.plan(NBYTES, 1e6, seconds([0] * 8, 1e6)).tolist() == [0] * 8
    for deadline in np.linspace(seconds([3] * 8, 1e6), seconds([0] * 8, 1e6), 7):
        levels = jc.kvcache.plan(NBYTES, 1e6, deadline)
        assert seconds(levels, 1e6) <= deadline + 1e-9
        # What is left does not pay for the last chunk in a finer level.
        if levels[-1]:
            finer = [*levels[:-1], levels[-1] - 1]
            assert seconds(finer, 1e6) > deadline
    assert jc.kvcache.plan(NBYTES, 1e6, 0.1).tolist() == [3] * 8  # too late, and no later


def test_planning_again_is_in_time_where_a_fixed_level_is_not():
    trace = 1e6 * np.array([1, 1, 1, 0.5, 0.5, 0.6, 2, 2])  # bytes per second during each chunk
    deadline, now, sent = 4.9, 0.0, []
    for chunk, bandwidth in enumerate(trace):
        level = jc.kvcache.plan(NBYTES[chunk:], bandwidth, deadline - now)[0]
        sent.append(level)
        now += NBYTES[chunk, level] / bandwidth
    fixed = [(NBYTES[:, level] / trace).sum() for level in range(4)]
    once = jc.kvcache.plan(NBYTES, trace[0], deadline)
    late = (NBYTES[np.arange(8), once] / trace).sum()
    assert now <= deadline < late
    # A fixed level in time is coarser for all of the chunks.
    in_time = min(level for level in range(4) if fixed[level] <= deadline)
    assert np.mean(sent) < in_time


def test_text_comes_first_where_there_is_time_and_last_resort_where_it_is_fast():
    text = np.full(8, 0.9)
    levels = jc.kvcache.plan(NBYTES, 1e6, 8 * 0.9, text_seconds=text)
    assert levels.tolist() == [4] * 8
    assert (jc.kvcache.plan(NBYTES, 1e6, 6.0, text_seconds=text) < 4).any()
    assert jc.kvcache.plan(NBYTES, 1e5, 1.0, text_seconds=text).tolist() == [4] * 8


def test_no_chunks_are_no_levels():
    assert jc.kvcache.plan(NBYTES[:0], 1.0, 1.0).shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((NBYTES[0], 1.0, 1.0), "bytes .chunks, levels."),
        ((0 * NBYTES, 1.0, 1.0), "all above 0"),
        ((NBYTES, 0.0, 1.0), "bytes per second above 0"),
        ((NBYTES, 1.0, float("nan")), "and seconds"),
    ],
)
def test_what_is_refused(arguments, words):
    with pytest.raises(jc.UnsupportedInput, match=words):
        jc.kvcache.plan(*arguments)
    with pytest.raises(jc.UnsupportedInput, match="seconds for the text"):
        jc.kvcache.plan(NBYTES, 1.0, 1.0, text_seconds=[1.0])
