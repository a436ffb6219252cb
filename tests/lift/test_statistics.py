"""Sums of vectors add up over batches; several statistics are gathered at once."""

import chex
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.lift.statistics import both, max_magnitude, mean_magnitude, part, second_moment

X = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)


@pytest.mark.parametrize("statistic", [second_moment, mean_magnitude, max_magnitude])
def test_parts_make_the_whole_and_zeros_leave_no_trace(statistic):
    traced = chex.assert_max_traces(statistic.update, n=1)
    chex.clear_trace_counter()
    update = jax.jit(traced)
    state = statistic.init(4)
    for rows in np.split(X, 3):
        state = update(state, rows)
    whole = jax.jit(statistic.update)(statistic.init(4), np.concatenate([X, 0 * X]))
    chex.assert_trees_all_close(state, whole, rtol=1e-5)
    if "count" in state:
        assert float(state["count"]) == 9


def test_the_statistics_are_those_of_their_names():
    def of(statistic):
        return statistic.update(statistic.init(4), jnp.asarray(X))

    np.testing.assert_allclose(of(second_moment)["moment"], X.T @ X, rtol=1e-5)
    np.testing.assert_allclose(of(mean_magnitude)["sum"], np.abs(X).sum(0), rtol=1e-5)
    np.testing.assert_array_equal(of(max_magnitude)["max"], np.abs(X).max(0))


def test_both_are_gathered_at_once_and_each_is_found_again():
    every = both(second_moment, max_magnitude, mean_magnitude)
    state = every.update(every.init(4), jnp.asarray(X))
    one = max_magnitude.update(max_magnitude.init(4), jnp.asarray(X))
    chex.assert_trees_all_equal(part(max_magnitude, state), one)
    chex.assert_trees_all_equal(part(max_magnitude, one), one)
    two = part(both(second_moment, max_magnitude), state)
    assert set(two) == {"second_moment", "max_magnitude"}
    assert part(second_moment, one) is None
    assert part(both(second_moment, max_magnitude), one) is None
    assert part(second_moment, None) is None


def test_two_of_one_name_are_refused():
    with pytest.raises(jc.UnsupportedInput, match="different names"):
        both(second_moment, second_moment)


def test_observe_refuses_what_is_no_statistic(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    for wrong in ("second", "mm", (jnp.zeros, 3), second_moment.init):
        with pytest.raises(jc.UnsupportedInput, match="expected a Statistic, or a pair of func"):
            jc.observe(jnp.matmul, jnp.ones((2, 2)), [jnp.ones((2, 2))], statistic=wrong)
