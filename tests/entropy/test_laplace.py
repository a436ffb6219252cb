"""The Laplace distribution: scipy's tails, gradients far out, the law on real coefficients."""

import numpy as np
import pytest
from scipy import stats

from jaxcomp.entropy import laplace, laplace_log_mass, scale_index, scale_table
from tests.checks import check_entropy_model
from tests.entropy.cases import (
    check_bits_against,
    check_gradients,
    check_location_scale,
    photo_latents,
)

pytestmark = pytest.mark.usefixtures("quick_file")


def test_bits_are_those_of_scipy():
    check_bits_against(laplace_log_mass, stats.laplace)


def test_gradients_far_out_and_near():
    check_gradients(laplace_log_mass)


def test_the_law_at_every_scale():
    check_location_scale(laplace(), lambda rng, scale: rng.laplace(0, scale))


def test_the_law_on_a_photo():
    latents, near = photo_latents()
    row = np.asarray(scale_index(scale_table(), near))
    check_entropy_model(laplace(), {}, latents, row)
