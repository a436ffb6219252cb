"""Trained at 2 bits, a network loses far less than one that is rounded; frozen, it is the same."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from tests.weights.training_case import floats, loss_of, stats, trained

INT2_G16 = jc.formats.INT2._replace(group=16)
METHOD = jc.weights.lsq(INT2_G16)


def test_a_trained_network_of_two_bits_is_better_than_a_rounded_one():
    tuned, frozen = trained(METHOD)
    rounded = jc.weights.compress(floats()[0], jc.weights.rtn(INT2_G16, clip=True), stats=stats())
    assert jc.tree.nbytes(frozen) == jc.tree.nbytes(rounded)
    assert loss_of(frozen) < 0.3 * loss_of(rounded)
    for name in ("first", "middle", "last"):  # what is kept is exactly what was trained
        np.testing.assert_array_equal(frozen[name].dense(), tuned[name].dense())
    assert loss_of(frozen) == pytest.approx(loss_of(tuned), rel=1e-4)


def test_steps_start_and_gain_as_in_the_paper():
    w = jnp.asarray(np.random.default_rng(0).normal(size=(64, 8)), jnp.float32)
    leaf = jc.weights.compress({"w": w}, jc.weights.lsq(jc.formats.INT4), axes=-2)["w"]
    np.testing.assert_allclose(leaf.steps[0], 2 * jnp.abs(w).mean(0) / np.sqrt(7), rtol=1e-6)
    assert (leaf.rule.low, leaf.rule.high) == (-8, 7)
    assert leaf.rule.gain == pytest.approx(1 / np.sqrt(64 * 7))


def test_learned_steps_are_better_than_those_that_stay():
    def still(w, state, axes):  # the same grid, whose steps have no gradient
        leaf = METHOD.compress(w, state, axes)
        return replace(leaf, rule=leaf.rule._replace(gain=0.0))

    _, learned = trained(METHOD)
    _, held = trained(jc.Transform(still, None, "held"))
    assert loss_of(learned) < loss_of(held)


def test_one_trace_for_weights_of_a_shape():
    traced = chex.assert_max_traces(lambda leaf: leaf.dense(), n=1)
    chex.clear_trace_counter()
    dense = jax.jit(traced)
    w = jnp.ones((32, 8))
    for i in range(2):
        dense(jc.weights.compress({"w": w + i}, jc.weights.lsq(INT2_G16), axes=-2)["w"])
