"""Choices: real bytes, and losses that are the model's own where one product is the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.formats import INT2_G32, INT8
from jaxcomp.weights import alone, assemble, choices, plan_of, rtn
from tests.weights.toy_model import BATCH, model, params, stats

pytestmark = pytest.mark.usefixtures("quick_file")

METHODS = {"int8": rtn(INT8), "int2": rtn(INT2_G32), "float": None}


def test_bytes_are_those_of_the_leaves_and_losses_those_of_the_outputs():
    w, seen = params(), stats()
    table = choices(w, METHODS, stats=seen)
    assert set(table) == {"a", "b", "c", "stack"} and set(table["a"]) == set(METHODS)
    for path in table:
        losses = [table[path][name].loss for name in METHODS]
        assert losses[1] > 1000 * losses[0] > losses[2] == 0
    for name in METHODS:
        plan = plan_of(table, name)
        small = assemble(w, table, plan)
        assert plan.nbytes == jc.tree.nbytes(small) - w["bias"].nbytes
    # x @ a of every vector that was seen, against the same with the rounded a.
    near = table["a"]["int2"].leaf.dense()
    off = jnp.mean(jnp.sum((BATCH @ w["a"] - BATCH @ near) ** 2, -1))
    np.testing.assert_allclose(table["a"]["int2"].loss, off, rtol=1e-4)
    relative = choices(w, {"x": rtn(INT2_G32)}, stats=seen, loss="relative")["a"]["x"].loss
    whole = jnp.mean(jnp.sum((BATCH @ w["a"]) ** 2, -1))
    np.testing.assert_allclose(relative, off / whole, rtol=1e-4)


def test_a_loss_of_the_whole_model_and_one_without_statistics():
    w = params()
    target = model(w, BATCH)

    @jax.jit
    def fitness(p):
        return jnp.mean((model(p, BATCH) - target) ** 2)

    table = choices(w, {"int2": rtn(INT2_G32)}, stats=stats(), loss=alone(w, fitness))
    one = {**w, "b": table["b"]["int2"].leaf.dense()}
    np.testing.assert_allclose(table["b"]["int2"].loss, fitness(one), rtol=1e-4)
    kernel = {"k": w["a"]}
    got = choices(kernel, {"int2": rtn(INT2_G32)}, axes=-2)["k"]["int2"]
    np.testing.assert_allclose(got.loss, jnp.sum((w["a"] - got.leaf.dense()) ** 2), rtol=1e-5)


def test_what_no_batch_reached_is_no_free_choice():
    w = {"a": params()["a"], "stack": params()["stack"]}

    def fn(w, x):
        return jax.lax.cond(x[0, 0] > 1e9, lambda: x @ w["a"], lambda: x @ w["stack"][1])

    seen = jc.observe(fn, w, [BATCH])
    for path, which in (("a", "zeros"), ("stack", r"zeros for 1 of 2 matrices, \[\[0\]\]")):
        with pytest.raises(jc.UnsupportedInput, match=f'{path}: .* for loss="output", .* {which}'):
            choices(
                w, {"int8": rtn(INT8)}, stats=seen, where=lambda name, _, path=path: name == path
            )


def test_moments_among_other_statistics_count_and_unseen_weights_go_by_their_own_error():
    w, needed = params(), jc.weights.both(jc.weights.max_magnitude, jc.weights.second_moment)
    seen = jc.observe(model, w, [BATCH], statistic=needed, where=lambda path, _: path == "a")
    method = {"int2": rtn(INT2_G32)}
    table = choices(w, method, stats=seen, axes=-2, where=lambda path, _: path in "ab")
    expected = choices(w, method, stats=stats(), where=lambda path, _: path == "a")
    np.testing.assert_allclose(table["a"]["int2"].loss, expected["a"]["int2"].loss, rtol=1e-6)
    off = w["b"] - table["b"]["int2"].leaf.dense()
    np.testing.assert_allclose(table["b"]["int2"].loss, jnp.sum(off**2), rtol=1e-5)


def test_bad_input_is_named():
    with pytest.raises(jc.UnsupportedInput, match="expected a method among methods"):
        choices(params(), {"float": None}, axes=-2)
    with pytest.raises(jc.UnsupportedInput, match='expected loss "output"'):
        choices(params(), {"a": rtn(INT8)}, axes=-2, loss="squared")
