"""evopress: the true optimum of a whole model, where losses do not add up."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxcomp as jc
from jaxcomp.formats import INT2_G32, INT4_G32, INT8
from jaxcomp.formats.leaf import is_leaf
from jaxcomp.weights import allocate, assemble, choices, evopress, plan_of, rtn

pytestmark = pytest.mark.usefixtures("quick_file")

METHODS = {"int2": rtn(INT2_G32), "int4": rtn(INT4_G32), "int8": rtn(INT8)}
PAIRS = 3


def make_params():
    """Pairs whose errors cancel at equal widths: what each loses alone says nothing of both."""
    rng = np.random.default_rng(0)
    params = {}
    for i in range(PAIRS):
        twin = rng.normal(size=(32, 32)) * 0.5**i
        params |= {f"left{i}": twin, f"right{i}": twin}
    params["alone"] = rng.normal(size=(32, 64))  # of another size than the others
    return {k: jnp.asarray(x, jnp.float32) for k, x in params.items()}


X = jnp.asarray(np.random.default_rng(1).normal(size=(64, 32)), jnp.float32)


def model(params, x):
    parts = [x @ params[f"left{i}"] - x @ params[f"right{i}"] for i in range(PAIRS)]
    return jnp.concatenate([*parts, 0.5 * (x @ params["alone"])], -1)


TARGET = model(make_params(), X)


@jax.jit
def fitness(params):
    return jnp.mean((model(params, X) - TARGET) ** 2)


@jax.jit
def half(params):
    return jnp.mean((model(params, X[:16]) - TARGET[:16]) ** 2)


@pytest.fixture(scope="module")
def table():
    return choices(make_params(), METHODS, axes=-2)


@pytest.fixture(scope="module")
def truth(table):
    """{names: (nbytes, fitness)} of all 3**7 plans."""
    flat = {
        path: {name: c.leaf.dense() for name, c in versions.items()}
        for path, versions in table.items()
    }
    stacked = {path: jnp.stack(list(versions.values())) for path, versions in flat.items()}
    plans = np.array(list(itertools.product(range(3), repeat=len(table))))
    score = jax.jit(
        jax.vmap(lambda plan: fitness({p: stacked[p][plan[i]] for i, p in enumerate(stacked)}))
    )
    names = list(METHODS)
    sizes = np.array([[c.nbytes for c in versions.values()] for versions in table.values()])
    nbytes = sizes[np.arange(len(table)), plans].sum(-1)
    keys = [tuple(names[k] for k in plan) for plan in plans]
    return dict(zip(keys, zip(nbytes, np.asarray(score(plans)), strict=True), strict=True))


def test_finds_the_optimum_that_adding_up_misses_with_few_evaluations(table, truth):
    budget = plan_of(table, "int4").nbytes
    fits = {k: f for k, (n, f) in truth.items() if n <= budget}
    best = min(fits.values())
    added = fits[tuple(allocate(table, budget).names.values())]
    plan, log = evopress(
        make_params(), table, fitness, budget, generations=40, offspring=16, seed=1
    )
    np.testing.assert_allclose(log[-1].fitness, best, rtol=1e-4)
    assert plan.nbytes == log[-1].nbytes <= budget
    assert log[0].fitness == pytest.approx(added, rel=1e-4) and log[-1].fitness < 0.5 * added
    assert log[-1].evaluations < len(fits) / 2
    assert all(a.fitness >= b.fitness for a, b in itertools.pairwise(log))


def test_stages_choose_among_many_by_little_data(table):
    calls = {"half": 0, "whole": 0}

    def counted(function, name):
        def count(params):
            calls[name] += 1
            return function(params)

        return count

    stages = [(counted(half, "half"), 4), (counted(fitness, "whole"), 1)]
    budget = plan_of(table, "int4").nbytes
    options = dict(generations=6, offspring=16, start=plan_of(table, "int4"), seed=2)
    plan, log = evopress(make_params(), table, stages, budget, **options)
    again, _ = evopress(make_params(), table, stages, budget, **options)
    assert plan == again
    assert calls["half"] == 2 * 6 * 16 and calls["whole"] == 2 * (1 + 6 * 4)
    assert log[-1].fitness < log[0].fitness
    small = assemble(make_params(), table, plan)
    np.testing.assert_allclose(
        fitness(jax.tree.map(jc.formats.dense, small, is_leaf=is_leaf)), log[-1].fitness, rtol=1e-4
    )


def test_compressed_leaves_are_seen_where_asked_for(table):
    def rounds(params):
        return sum(jc.tree.is_compressed(x) for x in params.values())

    plan, log = evopress(
        make_params(), table, rounds, 1 << 20, generations=1, offspring=2, as_dense=False
    )
    assert log[0].fitness == len(table)


def test_one_plan_only_and_bad_input(table):
    least = plan_of(table, "int2").nbytes
    plan, log = evopress(make_params(), table, fitness, least, generations=3, offspring=4)
    assert set(plan.names.values()) == {"int2"} and len(log) == 1
    with pytest.raises(jc.UnsupportedInput, match="at least"):
        evopress(make_params(), table, fitness, least - 1)
    with pytest.raises(jc.UnsupportedInput, match="the last keeps 1"):
        evopress(make_params(), table, [(fitness, 4)], least)
    with pytest.raises(jc.UnsupportedInput, match="a start within"):
        evopress(make_params(), table, fitness, least, start=plan_of(table, "int8"))


def test_variables_of_flax_are_dense_too():
    params = nnx.State({"w": nnx.Param(make_params()["left0"])})
    versions, seen = choices(params, {"int4": METHODS["int4"]}, axes=-2), []

    def fitness(params):
        seen.append(params["w"].get_value())
        return 0.0

    evopress(params, versions, fitness, bits_per_weight=8, generations=0)
    assert [type(w) for w in seen] == [type(X)]
