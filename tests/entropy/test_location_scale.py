"""Location and scale: the scale table, the nearest scale, and what a choice of scales costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.entropy import gaussian, scale_index, scale_table


def test_scales_are_log_spaced_and_the_nearest_is_chosen():
    scales = scale_table(0.5, 8.0, 5)
    np.testing.assert_allclose(scales, [0.5, 1, 2, 4, 8])
    given = np.array([0.01, 0.5, 0.7, 0.72, 1.4, 1.42, 8.0, 900.0], np.float32)
    np.testing.assert_array_equal(scale_index(scales, given), [0, 0, 0, 1, 1, 2, 4, 4])
    with pytest.raises(jc.JaxcompError, match="0 < minimum"):
        scale_table(0.0, 1.0)
    for bad in ([2.0, 1.0], [-1.0, 1.0], []):
        with pytest.raises(jc.JaxcompError, match="ascending"):
            gaussian(scales=np.array(bad))


def test_choosing_among_64_scales_costs_4_thousandths_of_a_bit_at_most():
    scales = scale_table()
    model = gaussian()
    # Half-way between two scales, where the mismatch is worst.
    true = np.sqrt(scales[:-1] * scales[1:])[20:]
    y = jnp.arange(-300.0, 301.0)[:, None]
    best = np.asarray(model.bits({}, y, true), np.float64)
    mass = np.exp2(-best)

    def excess(other):
        return (mass * (np.asarray(other) - best)).sum(0)

    assert (excess(model.bits({}, y, scale_index(scales, true))) < 0.004).all()
    # Every fourth scale costs sixteen times as much: the levels are what pays.
    few = scale_table(levels=16)
    assert excess(model.bits({}, y, few[scale_index(few, true)])).max() > 0.04


def test_scales_beyond_the_table_cost_what_its_ends_do_and_can_come_back():
    model = gaussian()
    low, high = scale_table()[[0, -1]]
    np.testing.assert_array_equal(model.bits({}, 1.0, low / 9), model.bits({}, 1.0, low))
    np.testing.assert_array_equal(model.bits({}, 1.0, high * 9), model.bits({}, 1.0, high))
    slope = jax.grad(lambda scale, y: model.bits({}, y, scale))
    assert slope(low / 2, 3.0) < 0  # a larger scale would be better: towards the table
    assert slope(high * 2, 1.0) > 0
    assert slope(high * 2, 500.0) == 0


def test_index_takes_rows_and_scales_and_broadcasts():
    model = gaussian()
    rows = np.array([0, 63], np.int32)
    np.testing.assert_array_equal(model.index({}, (2, 2), rows), [[0, 63], [0, 63]])
    np.testing.assert_array_equal(model.index({}, (2,), scale_table()[[0, 63]], 0.5), rows)
    assert model.index({}, (3,), np.uint8(7)).dtype == jnp.int32
