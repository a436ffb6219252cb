"""Entries apart: the ones that were asked for, back at their places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.kvcache.apart import extremes, put, take


def test_extremes_are_the_largest_and_the_smallest():
    x = jnp.array([[3.0, -1, 7, 0, -5], [1, 2, 3, 4, 5]])
    assert extremes(x, 1, axis=-1).tolist() == [[0, 0, 1, 0, 1], [1, 0, 0, 0, 1]]
    assert extremes(x.T, 1, axis=-2).T.tolist() == extremes(x, 1, axis=-1).tolist()
    assert not extremes(x, 0, axis=-1).any()


@pytest.mark.parametrize("axis", [-1, -2])
def test_what_is_taken_is_put_back(axis):
    x = jax.random.normal(jax.random.key(0), (3, 40, 24)).astype(jnp.bfloat16).astype(jnp.float32)
    chosen = extremes(x, 2, axis=axis)
    apart = take(x, chosen, 4, axis=axis)
    assert apart.places.dtype == jnp.uint8 and apart.values.shape[axis] == 4
    back = put(apart, x.shape[axis], axis=axis)
    np.testing.assert_array_equal(back, jnp.where(chosen, x, 0))


def test_fewer_than_there_is_room_for_leave_the_rest_empty():
    x = jnp.arange(1.0, 7).reshape(2, 3)
    chosen = jnp.array([[True, False, False], [False, True, True]])
    back = put(take(x, chosen, 2, axis=-1), 3, axis=-1)
    np.testing.assert_array_equal(back, jnp.where(chosen, x, 0))


def test_places_that_are_no_bytes_are_refused():
    with pytest.raises(jc.UnsupportedInput, match="vectors of at most 256"):
        take(jnp.zeros((2, 257)), jnp.zeros((2, 257), bool), 1, axis=-1)
