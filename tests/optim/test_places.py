"""Places come back at every width, in as few bits as they need."""

import jax
import numpy as np
import pytest

from jaxcomp import UnsupportedInput
from jaxcomp.optim.places import count_of, pack_places, unpack_places


@pytest.mark.parametrize("size, nbytes", [(1, 0), (2, 2), (200, 9), (5000, 19), (1 << 20, 23)])
def test_they_come_back(size, nbytes):
    places = np.random.default_rng(0).integers(0, size, 9).astype(np.int32)
    places[0] = size - 1
    packed = jax.jit(pack_places, static_argnums=1)(places, size)
    assert packed.nbytes == nbytes
    unpack = jax.jit(unpack_places, static_argnums=(1, 2))
    np.testing.assert_array_equal(unpack(packed, size, 9), places)


def test_counts():
    assert [count_of(n, 0.01) for n in (0, 1, 99, 1000)] == [0, 1, 1, 10]
    with pytest.raises(UnsupportedInput, match="density above 0"):
        count_of(10, 1.5)
