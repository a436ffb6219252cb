"""Run lengths: the round trip, the shortest description, named errors."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import jaxcomp as jc
from jaxcomp.coding.run_length import run_length_decode, run_length_encode


@given(st.lists(st.integers(0, 2), max_size=60))
def test_round_trip_in_the_fewest_runs(values):
    kept, lengths = run_length_encode(np.array(values, np.int32))
    assert (kept[1:] != kept[:-1]).all() and (lengths > 0).all()
    assert run_length_decode(kept, lengths, count=len(values)).tolist() == values


def test_lengths_that_lie_are_refused_before_anything_is_allocated():
    for lengths in ([2**62, 2**62, 2**62, 2**62], [-1, 4], [1]):
        with pytest.raises(jc.CorruptStream, match="expected runs of 3"):
            run_length_decode(np.zeros(len(lengths)), np.array(lengths), count=3)
    with pytest.raises(jc.JaxcompError, match="one axis"):
        run_length_encode(np.zeros((2, 2)))
