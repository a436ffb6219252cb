"""The statistics of jc.weights are those that jc.observe takes."""

import jaxcomp as jc
from jaxcomp.lift import statistics


def test_statistics_are_at_hand_beside_the_methods():
    for name in ("both", "max_magnitude", "mean_magnitude", "second_moment"):
        assert getattr(jc.weights, name) is getattr(statistics, name)
