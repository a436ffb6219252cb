"""SCAFCOM: the minimum that averaging misses, with compressors that have a contraction alone."""

import pytest

from jaxcomp import UnsupportedInput, optim
from tests.checks_optim import check_rounds
from tests.optim.test_rounds import averaging, distance, halves, run


def test_law():
    check_rounds(lambda method, **options: optim.scafcom(method, beta=1.0, **options))


def test_the_largest_entries_of_half_of_the_clients_lead_to_the_minimum_and_in_averages_not():
    method, part = optim.gathered(optim.top_k(0.1), "clients"), halves(600)
    path, _ = run(optim.scafcom(method, local_rate=0.1), 600, part=part)
    assert distance(path) < 1e-3
    path, _ = run(averaging(method, local_rate=0.1), 600, part=part)
    assert distance(path) > 0.1


def test_impossible_options_are_named():
    with pytest.raises(UnsupportedInput, match="beta above 0"):
        optim.scafcom(optim.dense_mean("clients"), local_rate=0.1, beta=0.0)
