"""DRIVE: at size its error is that of the theory, whatever the vector looks like."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import UnsupportedInput, optim
from tests.checks_optim import check_compressor
from tests.optim.inputs import hard


def test_the_law_and_the_theory_without_bias():
    errors = check_compressor(optim.drive(), hard(1024))
    np.testing.assert_allclose(errors, math.pi / 2 - 1, rtol=0.03)


def test_the_law_and_the_theory_of_least_error():
    errors = check_compressor(optim.drive(unbiased=False), hard(1024))
    np.testing.assert_allclose(errors[[0, 4]], 1 - 2 / math.pi, rtol=0.02)
    np.testing.assert_allclose(errors[5], 0.5, rtol=1e-5)  # Khintchine's constant is met


def test_a_bit_for_each_entry_a_scale_for_each_block_and_a_key():
    assert optim.wire_nbytes(optim.drive(), jnp.zeros(8192)) == 1024 + 2 * 4 + 8
    assert optim.wire_nbytes(optim.drive(), jnp.zeros(())) == 16 + 4 + 8
    with pytest.raises(UnsupportedInput, match="power of two"):
        optim.drive(block=1000)
