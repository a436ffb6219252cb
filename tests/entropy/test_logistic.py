"""The logistic distribution: scipy's tails, gradients far out, the law."""

import pytest
from scipy import stats

from jaxcomp.entropy import logistic, logistic_log_mass
from tests.entropy.cases import check_bits_against, check_gradients, check_location_scale

pytestmark = pytest.mark.usefixtures("quick_file")


def test_bits_are_those_of_scipy():
    check_bits_against(logistic_log_mass, stats.logistic)


def test_gradients_far_out_and_near():
    check_gradients(logistic_log_mass)


def test_the_law_at_every_scale():
    check_location_scale(logistic(), lambda rng, scale: rng.logistic(0, scale))
