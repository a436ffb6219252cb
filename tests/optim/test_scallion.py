"""SCALLION: the minimum that averaging misses, of clients with one class each, half of them out."""

import pytest

from jaxcomp import UnsupportedInput, optim
from tests.checks_optim import check_rounds
from tests.optim.test_rounds import averaging, distance, halves, run


def test_law():
    check_rounds(lambda method, **options: optim.scallion(method, alpha=0.3, **options))


def test_unbiased_messages_of_half_of_the_clients_lead_to_the_minimum_and_those_of_averaging_not():
    method, part = optim.gathered(optim.random_k(0.25), "clients"), halves(600)
    path, _ = run(optim.scallion(method, local_rate=0.1, alpha=0.25), 600, part=part)
    assert distance(path) < 1e-3
    path, _ = run(averaging(method, local_rate=0.1), 600, part=part)
    assert distance(path) > 0.1


def test_impossible_options_are_named():
    with pytest.raises(UnsupportedInput, match="alpha above 0"):
        optim.scallion(optim.dense_mean("clients"), local_rate=0.1, alpha=0.0)
