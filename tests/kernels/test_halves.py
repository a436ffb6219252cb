"""Halves are bits of the float, and give them back, whatever they are."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxcomp.kernels.halves import halves, whole


@jax.jit
def there_and_back(x):
    found = halves(lambda tree: tree["x"], {"x": x})
    return found, whole(found, jnp.ones(())), whole(found.T, jnp.ones(4), 0)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4))
def test_halves_are_the_bits(bits):
    bits = np.array(bits, np.uint32)
    found, *back = there_and_back(bits.view(np.float32))
    np.testing.assert_array_equal(found, bits.view(np.uint16).reshape(4, 2))
    for x in back:
        np.testing.assert_array_equal(np.asarray(x).view(np.uint32), bits)
