"""The compressed versions that each weight could take: what allocation chooses from.

One entry for each weight and method: the leaf itself, its bytes, and what it loses. Losses of
different weights are added up, so they should count the same thing: by default

    tr((W - Q) H (W - Q)^T) / vectors        H = sum x x^T, of jc.weights.second_moment

the mean squared error that the weight alone causes in its own output.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcomp.base import Transform, UnsupportedInput
from jaxcomp.formats.layout import to_matrix
from jaxcomp.formats.leaf import dense
from jaxcomp.lift.statistics import part, second_moment
from jaxcomp.tree import leaves, map_where
from jaxcomp.weights.compress import Axes, check_reached, compress

Methods = Mapping[str, Transform | Callable[[str, Any], Transform] | None]


class Choice(NamedTuple):
    """One version of one weight; a pair (nbytes, loss) will do where no tree is assembled."""

    nbytes: int
    loss: float
    leaf: Any = None


class Plan(NamedTuple):
    """Which version each weight takes, by name, and what all of them together cost and lose."""

    names: dict[str, str]
    nbytes: int
    loss: float


Choices = Mapping[str, Mapping[str, Choice | tuple[int, float]]]


def choices(
    params: Any,
    methods: Methods,
    *,
    stats: Mapping[str, Any] | None = None,
    axes: Axes | Callable[[str, Any], Axes] | None = None,
    where: Callable[[str, Any], bool] | None = None,
    loss: str | Callable[[str, Any, Any], float] = "output",
) -> dict[str, dict[str, Choice]]:
    """{path: {name: Choice}} of every selected weight under every method, as compress makes it.

    methods  by name; None leaves the weight as it is, at its own bytes and without loss
    loss     "output": above; the squared error of the weight where stats hold no second moment
             "relative": that over the same of the whole weight, without unit
             or (path, weight, leaf) -> float, `alone` for one
    others   as compress

    Where weights feed each other pass loss=alone(params, fitness), the rise of the model's own
    loss. Output errors do not say how much a weight matters to the end: plans of the least sum of
    them have measured worse than the uniform plan of the same bytes. A stack of layers (nn.scan) is
    one leaf, so all of its layers take one version.
    UnsupportedInput for a weight that no observed batch reached, as its outputs say nothing.

    All versions are held at once: for 2, 3, 4 and 8 bits about half of float32 params.
    """
    table: dict[str, dict[str, Choice]] = {}
    before = dict(leaves(params))
    for name, method in methods.items():
        if method is None:
            continue
        small = compress(params, method, stats=stats, axes=axes, where=where)
        for path, leaf in leaves(small):
            if leaf is not before[path]:
                value = _loss(loss, path, before[path], leaf, stats)
                table.setdefault(path, {})[name] = Choice(leaf.nbytes, value, leaf)
    if not table:
        raise UnsupportedInput("expected a method among methods, got none; name one or more")
    for name, method in methods.items():
        if method is None:
            for path, versions in table.items():
                versions[name] = Choice(before[path].nbytes, 0.0, before[path])
    return table


def assemble(params: Any, table: Choices, plan: Plan | Mapping[str, str]) -> Any:
    """params with the versions of a plan in place of its weights."""
    names = plan.names if isinstance(plan, Plan) else plan
    return map_where(
        lambda path, _: Choice(*table[path][names[path]]).leaf,
        params,
        lambda path, _: path in names,
    )


def plan_of(table: Choices, names: Mapping[str, str] | str) -> Plan:
    """The plan of one name for each weight, or of the same name for all: the uniform plan."""
    if isinstance(names, str):
        names = dict.fromkeys(table, names)
    taken = [Choice(*table[path][names[path]]) for path in table]
    nbytes, loss = sum(c.nbytes for c in taken), math.fsum(c.loss for c in taken)
    return Plan(dict(names), int(nbytes), loss)


def budget_of(table: Choices, nbytes: int | None, bits_per_weight: float | int | None) -> int:
    """The budget in bytes, of either way to say it; UnsupportedInput where nothing fits it."""
    if (nbytes is None) == (bits_per_weight is None):
        raise UnsupportedInput(
            "expected nbytes or bits_per_weight, got both or neither; pass the one that you mean"
        )
    if not table or not all(table.values()):
        raise UnsupportedInput(
            "expected a version of every weight, got none; see jc.weights.choices"
        )
    if nbytes is None:
        versions = {path: Choice(*next(iter(every.values()))) for path, every in table.items()}
        without = [path for path, one in versions.items() if one.leaf is None]
        if without:
            raise UnsupportedInput(
                f"expected leaves to count the weights of, got pairs for {without[0]}; pass nbytes="
            )
        nbytes = math.floor(bits_per_weight * sum(one.leaf.size for one in versions.values()) / 8)
    least = sum(min(Choice(*c).nbytes for c in every.values()) for every in table.values())
    if nbytes < least:
        raise UnsupportedInput(
            f"expected a budget of at least {least} bytes, what the smallest versions take, got "
            f"{nbytes}; raise it, or add a smaller method"
        )
    for path, every in table.items():
        for name, c in every.items():
            if not math.isfinite(c[1]):
                raise UnsupportedInput(
                    f"expected finite losses, got {c[1]} for {path} under {name}; leave it out"
                )
    return int(nbytes)


def alone(params: Any, fitness: Callable[[Any], Any]) -> Callable[[str, Any, Any], float]:
    """A loss: how much fitness(params) rises when one weight alone is compressed.

    Hubara et al., Improving post training neural quantization, 2020, section 3.2.
    """
    start = float(fitness(params))

    def loss(path, w, leaf):
        one = map_where(lambda *_: dense(leaf), params, lambda other, _: other == path)
        return float(fitness(one)) - start

    return loss


def _loss(loss, path, w, leaf, stats):
    if callable(loss):
        return float(loss(path, w, leaf))
    if loss not in ("output", "relative"):
        raise UnsupportedInput(
            f'expected loss "output", "relative" or a function, got {loss!r}; choose one'
        )
    seen = None if stats is None else stats.get(path)
    state = None if seen is None else part(second_moment, seen.state)
    packed, leading = tuple(axis for axis, _ in leaf.packed), 0
    if state is not None:
        leading = seen.leading
        # Of what nothing multiplied, every version would seem to be free.
        check_reached(path, state, seen, f'loss="{loss}"', "pass loss=alone(params, fitness)")
    off, whole = _errors(w, leaf, state, packed, leading)
    return float(off / whole if loss == "relative" else off)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _errors(w, leaf, state, packed, leading):
    """Squared output errors of the leaf, and of nothing at all, in the place of w."""
    w = w.astype(jnp.float32)
    off = w - dense(leaf).astype(jnp.float32)
    if state is None:
        return (off**2).sum(), (w**2).sum()

    def one(off, w, state):
        moment = state["moment"] / jnp.maximum(state["count"], 1)
        rows = [to_matrix(x, packed)[0] for x in (off, w)]
        return [jnp.einsum("oi,ij,oj->", x, moment, x, precision="highest") for x in rows]

    for _ in range(leading):
        one = jax.vmap(one)
    return [x.sum() for x in one(off, w, state)]
