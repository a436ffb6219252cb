"""Places come back, in hardly more bits than they need."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import UnsupportedInput
from jaxcomp.optim.places import (
    count_of,
    numbers_nbytes,
    pack_numbers,
    pack_places,
    unpack_numbers,
    unpack_places,
)


@pytest.mark.parametrize("size", [1, 2, 200, 5000, 1 << 20])
@pytest.mark.parametrize("density", [1e-9, 0.01, 0.15, 0.6, 1.0])
def test_they_come_back_in_half_a_bit_more_than_the_least(size, density):
    count = count_of(size, density)
    for seed, end in ((0, size), (1, count)):  # anywhere, or all at the beginning
        places = np.random.default_rng(seed).permutation(end)[:count].astype(np.int32)
        places.sort()
        packed = jax.jit(pack_places, static_argnums=1)(places, size)
        unpack = jax.jit(unpack_places, static_argnums=(1, 2))
        np.testing.assert_array_equal(unpack(packed, size, count), places)
    least = math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)
    excess = 8 * packed.nbytes - least / math.log(2)
    if density < 0.5:  # beyond, one would rather say which are left out
        assert excess <= 0.65 * count + 64
    assert packed.nbytes <= (3 * count + count * math.log2(max(1, size / count))) / 8 + 8


@pytest.mark.parametrize("bits", range(20))
def test_numbers_come_back(bits):
    numbers = np.random.default_rng(0).integers(0, 1 << bits, 9).astype(np.int32)
    packed = pack_numbers(jnp.asarray(numbers), bits)
    assert packed.nbytes == numbers_nbytes(9, bits) <= 2 * bits
    np.testing.assert_array_equal(unpack_numbers(packed, bits, 9), numbers)


def test_counts():
    assert [count_of(n, 0.01) for n in (0, 1, 99, 1000)] == [0, 1, 1, 10]
    with pytest.raises(UnsupportedInput, match="density above 0"):
        count_of(10, 1.5)
