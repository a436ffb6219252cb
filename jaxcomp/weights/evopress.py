"""Evolutionary allocation: versions of all weights by the loss of the whole model.

    minimise fitness(params with the plan)    where  sum of nbytes <= budget

Sieberling et al., EvoPress, 2024, section 3: a (1 + lambda) search. Each offspring copies the
parent and exchanges levels between weights so that the bytes stay; offspring compete on growing
amounts of data, and the parent meets them on the last. Losses need not add up, nor fall with every
byte. We differ where weights are not of one size: one weight goes up a level, and others, in half
of the cases of the same sizes, go down until the budget holds, so that every size can trade with
every other, and room that is left is used. A plan is judged once at each stage.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.leaf import dense
from jaxcomp.tree import is_compressed, map_where
from jaxcomp.weights.allocate import allocate
from jaxcomp.weights.choices import Choices, Plan, assemble, budget_of, plan_of

MOST_CHANGES = 10  # levels down for one up: further from the parent nothing is gained (their limit)
TRIES = 50  # times the offspring: where that many mutations are old, the neighbourhood is searched

Fitness = Callable[[Any], Any]


class Generation(NamedTuple):
    """What one generation came to: the parent after it, and the calls of fitness so far."""

    fitness: float
    nbytes: int
    evaluations: int


def evopress(
    params: Any,
    table: Choices,
    fitness: Fitness | Sequence[tuple[Fitness, int]],
    nbytes: int | None = None,
    *,
    bits_per_weight: float | int | None = None,
    start: Plan | Mapping[str, str] | None = None,
    generations: int = 150,
    offspring: int = 128,
    seed: int = 0,
    as_dense: bool = True,
) -> tuple[Plan, list[Generation]]:
    """(plan, log) of the least fitness found within the budget.

    table      of jc.weights.choices
    fitness    params -> a number, less is better: the KL to the float model on calibration data. Or
               [(fitness, survivors), ...] from little data to much, as [(a, 16), (b, 4), (c, 1)]
    nbytes     of the listed weights together; or bits_per_weight
    start      by default the plan of `allocate`, which takes losses to add up
    as_dense   fitness sees plain arrays, so that a jitted one is compiled once; with False it sees
               compressed leaves, which matters where these round activations too

    The log starts with the start. It ends early where no new plan is in reach. `plan.loss` stays
    the sum of the table's losses. Deterministic for a given seed.
    """
    budget = budget_of(table, nbytes, bits_per_weight)
    stages = [(fitness, 1)] if callable(fitness) else list(fitness)
    if not stages or any(n < 1 for _, n in stages) or stages[-1][1] != 1:
        raise UnsupportedInput(
            "expected stages [(fitness, survivors), ...] of which the last keeps 1, got survivors "
            f"{[n for _, n in stages]}; end with (fitness, 1)"
        )
    start = allocate(table, budget) if start is None else start
    names = start.names if isinstance(start, Plan) else dict(start)
    if plan_of(table, names).nbytes > budget:
        raise UnsupportedInput(
            f"expected a start within {budget} bytes, got {plan_of(table, names).nbytes}; leave it "
            "out to begin with the plan of allocate"
        )
    levels = _Levels(table)
    judge = _Judge(params, table, levels, [f for f, _ in stages], as_dense)
    rng = np.random.default_rng(seed)

    parent = levels.of(names)
    last = len(stages) - 1
    log = [Generation(judge(parent, last), levels.nbytes(parent), judge.calls)]
    for _ in range(generations):
        brood = _brood(rng, parent, levels, budget, offspring, judge.seen)
        if not brood:
            break
        for stage, (_, survivors) in enumerate(stages):
            brood = [*brood, parent] if stage == last else brood
            brood = sorted(brood, key=lambda one, stage=stage: judge(one, stage))[:survivors]
        parent = brood[0] if judge(brood[0], last) < log[-1].fitness else parent
        log.append(Generation(judge(parent, last), levels.nbytes(parent), judge.calls))
    return plan_of(table, levels.names(parent)), log


class _Levels:
    """Plans as tuples of levels: of each weight, its versions in order of bytes."""

    def __init__(self, table):
        self.paths = list(table)
        self.order = [sorted(v, key=lambda name, v=v: v[name][0]) for v in table.values()]
        self.bytes = [
            [int(v[name][0]) for name in order]
            for v, order in zip(table.values(), self.order, strict=True)
        ]
        kinds: dict[tuple[int, ...], list[int]] = {}
        for i, sizes in enumerate(self.bytes):
            kinds.setdefault(tuple(sizes), []).append(i)
        self.same = [kinds[tuple(sizes)] for sizes in self.bytes]

    def of(self, names):
        pairs = zip(self.paths, self.order, strict=True)
        return tuple(order.index(names[path]) for path, order in pairs)

    def names(self, plan):
        trio = zip(self.paths, self.order, plan, strict=True)
        return {path: order[k] for path, order, k in trio}

    def nbytes(self, plan):
        return sum(sizes[k] for sizes, k in zip(self.bytes, plan, strict=True))


class _Judge:
    """Fitness of plans at each stage, each asked for once."""

    def __init__(self, params, table, levels, functions, as_dense):
        self.params, self.table, self.levels = params, table, levels
        self.functions, self.as_dense = functions, as_dense
        self.known: list[dict[tuple[int, ...], float]] = [{} for _ in functions]
        self.seen: set[tuple[int, ...]] = set()
        self.calls = 0

    def __call__(self, plan, stage):
        known = self.known[stage]
        if plan not in known:
            small = assemble(self.params, self.table, self.levels.names(plan))
            if self.as_dense:
                small = map_where(lambda _, leaf: _dense(leaf), small, _is_packed)
            value = float(self.functions[stage](small))
            known[plan] = np.inf if np.isnan(value) else value
            self.seen.add(plan)
            self.calls += 1
        return known[plan]


def _is_packed(path, leaf):
    return is_compressed(leaf)


_dense = jax.jit(dense)


def _brood(rng, parent, levels, budget, count, seen):
    """Up to `count` different plans near the parent that were not judged before."""
    found: dict[tuple[int, ...], None] = {}
    for _ in range(TRIES * count):
        plan = list(parent)
        for _ in range(min(rng.integers(1, 4, 2))):  # mostly one exchange, at most three
            _exchange(rng, plan, levels, budget)
        plan = tuple(plan)
        if plan not in seen and levels.nbytes(plan) <= budget:
            found[plan] = None
        if len(found) == count:
            break
    return list(found)


def _exchange(rng, plan, levels, budget):
    """One weight up a level, others down until the budget holds; in place."""
    can = [i for i, k in enumerate(plan) if k + 1 < len(levels.bytes[i])]
    if not can:
        return
    up = can[rng.integers(len(can))]
    near = levels.same[up] if rng.integers(2) else range(len(plan))
    plan[up] += 1
    for _ in range(MOST_CHANGES):
        if levels.nbytes(plan) <= budget:
            return
        can = [i for i in near if plan[i] and i != up] or [
            i for i, k in enumerate(plan) if k and i != up
        ]
        if not can:
            return
        plan[can[rng.integers(len(can))]] -= 1
