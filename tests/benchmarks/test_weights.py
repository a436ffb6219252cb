"""The kept results of the weight benchmark: rows that it knows, when and on what they ran."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.weights import paired
from benchmarks.weights_methods import SECTIONS

RESULTS = Path(__file__).parents[2] / "benchmarks/results/weights.json"
KEPT = json.loads(RESULTS.read_text())["sections"]


def test_rows_are_those_that_the_benchmark_knows():
    assert set(KEPT) <= set(SECTIONS)
    for name, section in KEPT.items():
        assert [row["method"] for row in section["rows"]] == list(SECTIONS[name].methods)
        compared = [(pair["method"], pair["other"]) for pair in section.get("pairs", ())]
        assert compared == list(SECTIONS[name].pairs)


def test_every_section_says_when_and_on_what_and_every_difference_its_error():
    for section in KEPT.values():
        assert section["date"] >= "2026" and section["device"] and section["versions"]["jax"]
        for row in (*section["rows"][1:], *section.get("pairs", ())):
            assert row["standard_error"] > 0


def test_differences_are_of_the_same_items():
    """The error of a difference is that of the items' differences, not of two means."""
    others = np.array([1.0, 5.0, 9.0])
    mean, error = paired(others + [0.1, 0.2, 0.3], others)
    assert (mean, error) == pytest.approx((0.2, 0.1 / np.sqrt(3)))
