"""Halves are bits of the float, and give them back, whatever they are."""

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxcomp.kernels.halves import halves, whole

there_and_back = jax.jit(lambda x: (*halves(x), whole(*halves(x))))


@given(st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4))
def test_halves_are_the_bits(bits):
    x = np.array(bits, np.uint32).view(np.float32)
    upper, lower, back = there_and_back(x)
    np.testing.assert_array_equal(np.asarray(back).view(np.uint32), np.array(bits, np.uint32))
    np.testing.assert_array_equal(np.asarray(upper), np.array(bits, np.uint32) >> 16)
    np.testing.assert_array_equal(np.asarray(lower), np.array(bits, np.uint32) & 0xFFFF)
