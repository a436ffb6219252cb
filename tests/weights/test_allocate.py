"""allocate: the true optimum within exact bytes, and a better model for them."""

import importlib
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.formats import INT2_G32, INT3_G32, INT4_G32, INT8
from jaxcomp.weights import allocate, assemble, choices, plan_of, rtn
from tests.weights.toy_model import BATCH, model, params, stats

pytestmark = pytest.mark.usefixtures("quick_file")

METHODS = {
    "int2": rtn(INT2_G32),
    "int3": rtn(INT3_G32),
    "int4": rtn(INT4_G32),
    "int8": rtn(INT8),
}


def brute_force(table, budget):
    plans = itertools.product(*[v.values() for v in table.values()])
    return min(sum(c[1] for c in plan) for plan in plans if sum(c[0] for c in plan) <= budget)


def random_table(rng, *, largest=10**9, unit=1):
    """Any bytes and losses over ten decades; a version may be worse and larger than another."""
    table = {}
    for leaf in range(rng.integers(1, 6)):
        count = rng.integers(1, 5)
        nbytes = unit * rng.integers(1, 10 ** rng.uniform(1, np.log10(largest)), count)
        losses = 10.0 ** rng.uniform(-8, 2, count)
        pairs = zip(nbytes, losses, strict=True)
        table[f"w{leaf}"] = {f"v{k}": (int(n), float(x)) for k, (n, x) in enumerate(pairs)}
    return table


@pytest.mark.parametrize("method", ["milp", "dp"])
def test_equals_enumeration_and_keeps_the_budget(method):
    rng = np.random.default_rng(0)
    for _ in range(30):
        # For the optimum the buckets of "dp" need a common divisor.
        kind = {"largest": 1000, "unit": 4096 + 3} if method == "dp" else {}
        table = random_table(rng, **kind)
        ends = [sum(f(c[0] for c in v.values()) for v in table.values()) for f in (min, max)]
        budget = int(rng.uniform(*ends)) if rng.random() < 0.8 else ends[rng.integers(2)]
        plan = allocate(table, budget, method=method)
        taken = [table[path][plan.names[path]] for path in table]
        assert plan.nbytes == sum(c[0] for c in taken) <= budget
        np.testing.assert_allclose(plan.loss, brute_force(table, budget), rtol=1e-9)


def test_many_weights_by_two_ways():
    rng = np.random.default_rng(1)
    table = {
        f"w{i}": {
            str(bits): (bits * 4096 * int(rng.integers(8, 64)), float(rng.lognormal() * 4.0**-bits))
            for bits in (2, 3, 4, 8)
        }
        for i in range(60)
    }
    budget = sum(v["3"][0] for v in table.values())
    milp, dp = (allocate(table, budget, method=m) for m in ("milp", "dp"))
    assert max(milp.nbytes, dp.nbytes) <= budget
    np.testing.assert_allclose(milp.loss, dp.loss, rtol=1e-6)


def test_buckets_round_up_so_that_no_byte_is_exceeded(monkeypatch):
    monkeypatch.setattr(importlib.import_module("jaxcomp.weights.allocate"), "BUCKETS", 7)
    rng = np.random.default_rng(2)
    for _ in range(20):
        table = random_table(rng)
        budget = sum(max(c[0] for c in v.values()) for v in table.values()) * 2 // 3
        least = sum(min(c[0] for c in v.values()) for v in table.values())
        budget = max(budget, least)
        plan = allocate(table, budget, method="dp")
        assert plan.nbytes <= budget and plan.loss >= allocate(table, budget).loss * (1 - 1e-9)


def test_beats_uniform_at_equal_bytes():
    w, seen = params(), stats()
    table = choices(w, METHODS, stats=seen)
    target = model(w, BATCH)

    def measured(plan):
        small = assemble(w, table, plan)
        return float(jnp.mean((jc.lift(model)(small, BATCH) - target) ** 2)), jc.tree.nbytes(small)

    error, size = measured(plan_of(table, "int3"))
    plan = allocate(table, plan_of(table, "int3").nbytes)
    better, smaller = measured(plan)
    assert smaller <= size and better < 0.6 * error, (better, error)  # measured: 0.48
    bits = allocate(table, bits_per_weight=jc.tree.bits_per_weight(assemble(w, table, plan)))
    assert bits.names == plan.names
    # The identity limit: room for everything takes the best of everything.
    assert set(allocate(table, 1 << 40).names.values()) == {"int8"}


def test_bad_input_is_named():
    table = {"a": {"small": (10, 1.0), "large": (20, 0.5)}, "b": {"only": (7, 1.0)}}
    assert allocate(table, 17).names == {"a": "small", "b": "only"}
    with pytest.raises(jc.UnsupportedInput, match="at least 17 bytes.*got 16"):
        allocate(table, 16)
    with pytest.raises(jc.UnsupportedInput, match="nbytes or bits_per_weight"):
        allocate(table)
    with pytest.raises(jc.UnsupportedInput, match="got pairs for a"):
        allocate(table, bits_per_weight=4)
    with pytest.raises(jc.UnsupportedInput, match="finite losses"):
        allocate({"a": {"x": (10, float("nan"))}}, 10)
    with pytest.raises(jc.UnsupportedInput, match='"milp" or "dp"'):
        allocate(table, 20, method="greedy")
    with pytest.raises(jc.UnsupportedInput, match="a version of every weight"):
        allocate({}, 20)
