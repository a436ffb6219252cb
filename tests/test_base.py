"""The page of types and laws: its errors are one family, its records are what the docs say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32

from jaxcomp import base


@pytest.mark.parametrize("name", ["CorruptStream", "CapacityError", "UnsupportedInput"])
def test_one_except_clause_catches_every_refusal(name):
    error = getattr(base, name)
    assert issubclass(error, base.JaxcompError) and issubclass(base.JaxcompError, ValueError)
    assert error.__doc__


def test_records_are_plain_tuples_in_the_documented_order():
    assert base.Codec._fields == ("init", "apply", "encode", "decode", "name")
    assert base.EntropyModel._fields == ("init", "bits", "tables", "index")
    assert base.Payload._fields == ("header", "sections")


def test_random_bits_are_those_of_the_paper_and_of_an_independent_generator():
    first = base.random_bits((0, 0), np.zeros(1, np.uint32))
    assert [int(word[0]) for word in first] == [0x6B200159, 0x99BA4EFE]  # the authors' test vector
    key, counter = (0x13198A2E, 0x03707344), np.arange(5, dtype=np.uint32) * np.uint32(1 << 30)
    expected = threefry_2x32(
        jnp.array(key, jnp.uint32), jnp.concatenate([counter, np.zeros(5, np.uint32)])
    )
    traced = jax.jit(base.random_bits, static_argnums=0)
    for bits in (base.random_bits(key, counter), traced(key, counter)):
        np.testing.assert_array_equal(np.concatenate(bits), expected)
        assert all(word.dtype == np.uint32 for word in bits)
