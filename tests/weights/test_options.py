"""Options that no method can work with are refused where it is made, by name."""

import jaxtyping
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.weights.options import check_real, check_whole

W, INT4 = jc.weights, jc.formats.INT4
NAN = float("nan")


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: W.jlcm("4"), "expected bits from 1 to 8, a whole number, got '4'; 3 or 4"),
        (lambda: W.jlcm(3.5), "bits from 1 to 8, .* got 3.5"),
        (lambda: W.jlcm(3, classes=2.5), "classes from 1 to 256, .* got 2.5"),
        (lambda: W.jlcm(3, rounds=-1), "rounds >= 0, .* got -1"),
        (lambda: W.jlcm(3, damping=NAN), "damping >= 0, a finite number, got nan"),
        (lambda: W.nupes("int4"), "expected a jc.formats.Format, got 'int4'"),
        (lambda: W.nupes(steps=1.5), "steps >= 0, .* got 1.5"),
        (lambda: W.nupes(rate=-1.0), "rate >= 0, .* got -1.0"),
        (lambda: W.nupes(damping=-1.0), "damping >= 0, .* got -1.0"),
        (lambda: W.aqlm(vector="8"), "vector >= 1, .* got '8'"),
        (lambda: W.aqlm(books=1.5), "books >= 1, .* got 1.5"),
        (lambda: W.aqlm(bits=8.0), "bits from 1 to 16, .* got 8.0"),
        (lambda: W.aqlm(turns=2.5), "turns >= 0, .* got 2.5"),
        (lambda: W.aqlm(tolerance=2), "tolerance from 0 to 1, .* got 2"),
        (lambda: W.aqlm(damping=-1), "damping >= 0, .* got -1"),
        (lambda: W.double_rounding("int4"), "expected a jc.formats.Format, got 'int4'"),
        (lambda: W.at_bits({}, 2.5), "bits from 2 to 8, .* got 2.5"),
    ],
)
def test_options_are_refused_by_name(make, says, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    with pytest.raises(jc.UnsupportedInput, match=says):
        make()


def test_numbers_of_any_kind_pass_and_truth_is_none():
    check_whole(0, 3, steps=np.int64(3), advice="")
    check_real(0, 1, rate=np.float32(0.5), share=1, advice="")
    for check in (check_whole, check_real):
        with pytest.raises(jc.UnsupportedInput, match="steps .* got True"):
            check(0, steps=True, advice="")
