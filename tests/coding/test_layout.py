"""Where symbol i sits is a promise: group i // (T L), step i // L % T, lane i % L."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.coding.layout import as_int32, lay_out, split_steps


def test_symbol_i_sits_where_it_always_sat():
    count, groups, lanes = 700, 4, 32
    steps = split_steps(count, groups, lanes)
    plane = lay_out(np.arange(count), groups, lanes, fill=-1)
    assert steps == 6 and plane.shape == (4, 6, 32)
    for i in (0, 31, 32, 191, 192, 500, 699):
        assert plane[i // (steps * lanes), i // lanes % steps, i % lanes] == i
    assert (plane.reshape(-1)[count:] == -1).all()


def test_more_steps_move_nothing():
    flat = np.arange(50)
    plane = lay_out(flat, 2, 8, fill=0)
    longer = lay_out(flat, 2, 8, fill=0, steps=9)
    np.testing.assert_array_equal(longer[:, :4], plane)
    assert not longer[:, 4:].any()
    np.testing.assert_array_equal(lay_out(jnp.asarray(flat), 2, 8, fill=0, steps=9), longer)


def test_parts_are_laid_out_by_themselves():
    for count, steps in ((0, None), (95, None), (96, None), (96, 5), (33, 7)):
        flat = np.arange(count)
        whole = lay_out(flat, 6, 4, fill=-1, steps=steps)
        parts = [lay_out(flat, 6, 4, fill=-1, steps=steps, part=slice(i, i + 2)) for i in (0, 2, 4)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        small = lay_out(flat, 6, 4, fill=7, steps=steps, dtype=np.uint8)
        assert small.dtype == np.uint8
        np.testing.assert_array_equal(small, lay_out(flat, 6, 4, fill=7, steps=steps))
        np.testing.assert_array_equal(lay_out(jnp.asarray(flat), 6, 4, fill=-1, steps=steps), whole)


def test_integers_become_int32_exactly_or_not_at_all():
    assert as_int32(np.array([2**31 - 1], np.uint64), "symbols").dtype == np.int32
    for values in (np.array([2**31], np.uint32), np.array([-(2**31) - 1]), np.array([1.0])):
        with pytest.raises(jc.JaxcompError, match="symbols must"):
            as_int32(values, "symbols")
    with pytest.raises(jc.JaxcompError, match="under a trace"):
        jax.jit(lambda x: as_int32(x, "symbols"))(jnp.zeros(3, jnp.uint32))
