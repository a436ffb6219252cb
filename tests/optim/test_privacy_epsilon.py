"""Accounting against published values, an integral, and what is known exactly."""

import math

import numpy as np
import pytest

from jaxcomp import UnsupportedInput, optim
from jaxcomp.optim.privacy_epsilon import ORDERS, renyi


def test_one_step_is_the_integral_that_it_stands_for():
    z = np.linspace(-60, 100, 400_001)
    for order, noise, q in ((2, 1.0, 0.1), (7, 2.0, 0.01), (20, 4.0, 0.3)):
        density = np.exp(-(z**2) / (2 * noise**2)) / (noise * math.sqrt(2 * math.pi))
        ratio = 1 - q + q * np.exp((2 * z - 1) / (2 * noise**2))
        integral = np.trapezoid(density * ratio**order, z)
        np.testing.assert_allclose(
            renyi(order, noise, q), np.log(integral) / (order - 1), rtol=1e-6
        )
    assert renyi(9, 2.0, 1.0) == 9 / 8
    np.testing.assert_allclose(renyi(9, 2.0, 1 - 1e-12), 9 / 8, rtol=1e-6)


@pytest.mark.parametrize(
    ("noise", "sampling", "steps", "published"),
    [
        (4.0, 0.01, 10_000, 1.26),  # Abadi et al., 2016, section 3.2
        (1.3, 256 / 60_000, 15 * 60_000 // 256, 1.19),  # TensorFlow Privacy's tutorial on MNIST
        (1.1, 256 / 60_000, 60 * 60_000 // 256, 3.01),
    ],
)
def test_published_values(noise, sampling, steps, published):
    delta = 1e-5
    older = min(
        steps * renyi(a, noise, sampling) + math.log(1 / delta) / (a - 1) for a in ORDERS
    )  # the conversion of those days
    assert round(older, 2) == published
    found, order = optim.privacy_epsilon(noise, steps=steps, delta=delta, sampling=sampling)
    assert 0.7 * published < found < 0.9 * published and order in ORDERS


def test_limits():
    # One sum of all: exactly 4.377 by Balle, Wang, 2018; no bound may be below.
    assert 4.377 < optim.privacy_epsilon(1.0, steps=1, delta=1e-5)[0] < 4.9
    assert optim.privacy_epsilon(0.0, steps=1, delta=1e-5)[0] == math.inf
    assert optim.privacy_epsilon(1.0, steps=0, delta=1e-5)[0] == 0
    assert optim.privacy_epsilon(1e-3, steps=10**6, delta=1e-5, sampling=0.5)[0] > 1e6
    with pytest.raises(UnsupportedInput, match="expected noise >= 0"):
        optim.privacy_epsilon(1.0, steps=1, delta=0.0)
