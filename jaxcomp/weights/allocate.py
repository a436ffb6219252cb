"""Which version each weight takes, so that their losses add up to the least within exact bytes.

    min sum_l sum_k x_lk loss_lk    where  sum_k x_lk = 1,  sum_l sum_k x_lk nbytes_lk <= budget

the multiple-choice knapsack problem: by integer programming (Hubara et al., Improving post training
neural quantization, 2020, section 3.2), or by dynamic programming over bytes (Frantar, Alistarh,
SPDY, 2022, section 3.1), which is the check on it. We allow any methods, not only widths, and the
bytes are those of the leaves with all that they hold. That losses add up is an assumption: where
it fails, evopress searches with the whole model's loss.
"""

import math

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from jaxcomp.base import JaxcompError, UnsupportedInput
from jaxcomp.weights.choices import Choice, Choices, Plan, budget_of, plan_of

# Of the dynamic programme: 100 weights of 8 versions take 0.3 s, and a bucket is 1/65536 of what
# there is to give out.
BUCKETS = 1 << 16
# Losses are scaled to this: the solver's absolute gap of 1e-6 is then 1e-10 of the largest loss.
LOSS_SCALE = 1e4


def allocate(
    table: Choices,
    nbytes: int | None = None,
    *,
    bits_per_weight: float | int | None = None,
    method: str = "milp",
) -> Plan:
    """The plan of the least sum of losses that takes at most nbytes.

    table   of jc.weights.choices, or {path: {name: (nbytes, loss)}}
    nbytes  of the listed weights together; or bits_per_weight, overheads counted
    method  "milp": the optimum, to the solver's tolerance; "dp": the optimum where the differences
            of bytes have a large common divisor, else each version counts up to 1 / BUCKETS of the
            spread more than it takes. Neither exceeds the budget by a byte.

    Raises UnsupportedInput for a budget below the smallest versions, naming what these take.
    """
    budget = budget_of(table, nbytes, bits_per_weight)
    if method not in ("milp", "dp"):
        raise UnsupportedInput(f'expected method "milp" or "dp", got {method!r}; choose one')
    useful = {path: _undominated(versions) for path, versions in table.items()}
    names = (_programme if method == "milp" else _buckets)(useful, budget)
    plan = plan_of(table, names)
    if plan.nbytes > budget:
        raise JaxcompError(f"expected at most {budget} bytes, got {plan.nbytes}; report this")
    return plan


def _undominated(versions):
    """[(name, nbytes, loss)] by bytes: versions that no other beats in both."""
    ordered = sorted((Choice(*c)[:2], name) for name, c in versions.items())
    kept = []
    for (nbytes, loss), name in ordered:
        if not kept or loss < kept[-1][2]:
            kept.append((name, int(nbytes), float(loss)))
    return kept


def _programme(useful, budget):
    """{path: name} by scipy's branch and bound."""
    spans = [len(versions) for versions in useful.values()]
    # Above the smallest version of each weight, in units of the common divisor: small integers, for
    # which the solver's tolerances mean little.
    extra = [n - versions[0][1] for versions in useful.values() for _, n, _ in versions]
    loss = np.array([x - versions[-1][2] for versions in useful.values() for *_, x in versions])
    unit = math.gcd(*extra) or 1
    room = (budget - sum(versions[0][1] for versions in useful.values())) // unit
    extra = np.array(extra, np.int64) // unit
    rows = np.repeat(np.arange(len(spans)), spans)
    one_each = csr_array((np.ones(len(rows)), (rows, np.arange(len(rows)))))
    top, starts = loss.max() or 1.0, np.concatenate([[0], np.cumsum(spans)[:-1]])
    limit = room
    while True:
        found = milp(
            loss * (LOSS_SCALE / top),
            integrality=np.ones(len(rows)),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(extra, 0, limit)],
            options={"mip_rel_gap": 0.0},
        )
        if found.x is None:
            raise JaxcompError(f'the integer programme was not solved: {found.message}; use "dp"')
        ends = [start + span for start, span in zip(starts, spans, strict=True)]
        taken = [int(s + found.x[s:e].argmax()) for s, e in zip(starts, ends, strict=True)]
        over = int(extra[taken].sum()) - room
        if over <= 0:
            break
        limit -= over  # the solver took a fraction for a whole: leave it that much less
    picks = zip(useful.items(), taken, starts, strict=True)
    return {path: versions[at - start][0] for (path, versions), at, start in picks}


def _buckets(useful, budget):
    """{path: name} by dynamic programming: least[b], the least loss in b buckets.

    A version takes ceil(extra / size) buckets, and floor(room / size) are given out, so the bytes
    are at most size times the buckets, and those at most the budget.
    """
    room = budget - sum(versions[0][1] for versions in useful.values())
    extra = [[n - versions[0][1] for _, n, _ in versions] for versions in useful.values()]
    room = min(room, sum(e[-1] for e in extra))
    unit = math.gcd(*(x for e in extra for x in e)) or 1
    size = unit * max(1, -(-room // (unit * BUCKETS)))
    count = room // size
    least, taken = np.zeros(count + 1), []
    for versions, over in zip(useful.values(), extra, strict=True):
        best = np.full(count + 1, np.inf)
        which = np.zeros(count + 1, np.int32)
        for k, ((*_, loss), x) in enumerate(zip(versions, over, strict=True)):
            width = -(-x // size)
            if width > count:
                break
            trial = least[: count + 1 - width] + loss
            better = trial < best[width:]
            best[width:][better] = trial[better]
            which[width:][better] = k
        least = best
        taken.append(which)
    names, left = {}, count
    for (path, versions), over, which in reversed(
        list(zip(useful.items(), extra, taken, strict=True))
    ):
        k = int(which[left])
        names[path] = versions[k][0]
        left -= -(-over[k] // size)
    return {path: names[path] for path in useful}
