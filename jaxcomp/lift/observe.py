"""observe(fn, params, batches): what multiplies each weight, and along which axes.

The same walk as lift's. A first, abstract pass records every operation that meets a weight and the
axes that it sums over: that fixes how the weight will be packed, whatever its layout. Then each
batch runs once, and a statistic of the vectors that multiply each weight is kept up to date.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcomp.base import Statistic, UnsupportedInput
from jaxcomp.formats.leaf import Leaf, dense
from jaxcomp.lift import convolution
from jaxcomp.lift.call import split
from jaxcomp.lift.statistics import second_moment
from jaxcomp.lift.view import Source, View, whole
from jaxcomp.lift.walk import bind, evaluate


class Use(NamedTuple):
    """One operation that meets a weight. Axes are counted from the right."""

    operation: str
    contracted: tuple[int, ...]  # summed over; () for lookups and what needs the dense weight
    single: tuple[
        int, ...
    ]  # one at a time: looped over, indexed, or batched with the other operand


class Observation(NamedTuple):
    """What was seen of one weight.

    shape    of the weight
    uses     every operation that meets it
    packed   the axes that its products sum over, counted from the right
    leading  how many first axes stand for separate matrices (stacked layers, experts)
    state    the statistic's, with those axes in front; None if nothing was gathered
    """

    shape: tuple[int, ...]
    uses: tuple[Use, ...]
    packed: tuple[int, ...]
    leading: int
    state: Any

    @property
    def multiplied(self) -> bool:
        """Whether a product was seen, not only lookups."""
        return any(use.contracted for use in self.uses)


def observe(
    fn: Callable[..., Any],
    params: Any,
    batches: Iterable[Any],
    *,
    where: Callable[[str, Any], bool] | None = None,
    statistic: Statistic | None = second_moment,
) -> dict[str, Observation]:
    """{path: Observation} of the weights in params, over fn(params, *batch) for each batch.

    batches    any iterable; a tuple is several arguments. One compiled step per shape of a batch.
    where      (path, leaf) -> bool: which weights are watched; by default every float array of
               params that something multiplies
    statistic  what is gathered: second_moment, mean_magnitude, max_magnitude, or your own pair of
               init and update. None only records, from the first batch, which may then hold
               jax.ShapeDtypeStruct.

    Memory is one batch, its activations, and the statistics: [in, in] float32 for second moments.
    Raises UnsupportedInput where there is no batch, or where selects nothing that is multiplied.
    """
    batches = iter(batches)
    try:
        batch = next(batches)
    except StopIteration:
        raise UnsupportedInput(
            "expected a batch, got an empty iterable; pass one or more"
        ) from None
    record = _record(fn, params, batch, where)
    watched = {path: seen for path, seen in record.items() if seen.multiplied}
    if not watched:
        raise UnsupportedInput(
            "expected a selected weight that fn multiplies, got none; met: "
            f"{', '.join(record) or 'no float array'}. Check where= and that fn uses params"
        )
    if statistic is None:
        return record
    state = {path: _begin(statistic, seen) for path, seen in watched.items()}

    programs: dict[Any, Any] = {}
    while True:
        call = split(fn, (params, *_arguments(batch)), {})
        key = (call.static, call.tree)
        if key not in programs:
            programs[key] = jax.jit(
                lambda state, arrays, call=call: _watch(call, arrays, state, watched, statistic),
                donate_argnums=0,
            )
        state = programs[key](state, call.arrays)
        try:
            batch = next(batches)
        except StopIteration:
            break
    return {
        path: seen._replace(state=state[path]) if path in state else seen
        for path, seen in record.items()
    }


def _arguments(batch: Any) -> tuple[Any, ...]:
    return batch if isinstance(batch, tuple) else (batch,)


def _record(fn, params, batch, where) -> dict[str, Observation]:
    """What meets each selected weight, from shapes alone."""
    call = split(fn, (params, *_arguments(batch)), {})
    selected = _selected(call, where)
    handler = _Watcher({}, {}, None)
    jax.eval_shape(lambda arrays: _walk(call, arrays, selected, handler), call.arrays)
    shapes = dict(zip(call.paths, (x.shape for x in call.arrays), strict=True))
    found = {}
    for path, uses in handler.uses.items():
        products = [use for use in uses if use.contracted]
        rank = len(shapes[path])
        packed: tuple[int, ...] = (-1,)  # rows that are only looked up
        if products:
            kinds = [use.contracted for use in products]
            packed = max(kinds, key=kinds.count)
        same = [use for use in products if use.contracted == packed]
        leading = 0
        while products and all(leading - rank in use.single for use in same):
            leading += 1
        found[path] = Observation(shapes[path], tuple(dict.fromkeys(uses)), packed, leading, None)
    return found


def _selected(call, where) -> set[str]:
    chosen = set()
    for path, x in zip(call.paths, call.arrays, strict=True):
        mine = not path.startswith("argument ") and not isinstance(x, Leaf)
        if mine and jnp.issubdtype(x.dtype, jnp.floating) and (where is None or where(path, x)):
            chosen.add(path)
    return chosen


def _begin(statistic: Statistic, seen: Observation) -> Any:
    size = 1
    for axis in seen.packed:
        size *= seen.shape[axis]
    lead = seen.shape[: seen.leading]
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (*lead, *x.shape)), statistic.init(size))


def _watch(call, arrays, state, watched, statistic) -> dict[str, Any]:
    handler = _Watcher(dict(state), watched, statistic)
    _walk(call, arrays, set(watched), handler)
    return handler.state


def _walk(call, arrays, selected, handler) -> list[Any]:
    traced = call.trace(arrays)
    inputs = [
        whole(Source(path, x, ndim=len(x.shape))) if path in selected else dense(x)
        for path, x in zip(call.paths, arrays, strict=True)
    ]
    out = evaluate(traced.jaxpr.jaxpr, traced.jaxpr.consts, inputs, handler)
    return [x.dense() if isinstance(x, View) else x for x in out]


class _Watcher:
    """The handler that runs everything as it is, and looks at what meets the weights."""

    def __init__(self, state, watched, statistic):
        self.state = state
        self.watched = watched
        self.statistic = statistic
        self.uses: dict[str, list[Use]] = {}

    def _use(self, view: View, operation: str, contracted=(), batch=()) -> None:
        source = view.source
        rank = len(source.array.shape)
        looped = range(-source.ndim, -rank)
        single = sorted({*looped, *(axis for axis, _ in source.at), *batch})
        use = Use(operation, tuple(contracted), tuple(single))
        self.uses.setdefault(source.path, []).append(use)

    def _gather(self, view: View, contracted, batch, vectors: Callable[[], jax.Array]) -> None:
        """Update the statistic with vectors [*batch, rows, in]."""
        source = view.source
        seen = self.watched.get(source.path)
        if seen is None or seen.packed != tuple(contracted):
            return
        at = dict(source.at)
        axes = range(-len(source.array.shape), -len(seen.shape) + seen.leading)

        def update(state, x, axes, batch):
            if not axes:
                x = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
                return self.statistic.update(state, x)
            axis, rest = axes[0], axes[1:]
            if axis in at:
                here = jax.tree.map(
                    lambda s: jax.lax.dynamic_index_in_dim(s, at[axis], 0, keepdims=False), state
                )
                new = update(here, x, rest, batch)
                return jax.tree.map(
                    lambda s, n: jax.lax.dynamic_update_index_in_dim(s, n, at[axis], 0), state, new
                )
            place = batch.index(axis)
            left = [a for a in batch if a != axis]
            return jax.vmap(lambda s, x: update(s, x, rest, left))(state, jnp.moveaxis(x, place, 0))

        path = source.path
        self.state[path] = update(self.state[path], vectors(), list(axes), list(batch))

    def product(self, view, x, plan, equation):
        self._use(view, "dot_general", plan.contracted, plan.batch)
        self._gather(view, plan.contracted, plan.batch, lambda: plan.vectors(x))
        operands = [view.dense(), x] if plan.first else [x, view.dense()]
        return bind(equation, operands)[0]

    def convolution(self, view, x, equation):
        contracted = convolution.summed_axes(view, equation.params)
        if isinstance(contracted, str):
            return contracted
        self._use(view, "conv_general_dilated", contracted)
        self._gather(
            view,
            contracted,
            (),
            lambda: convolution.patches(view, x, equation.params, contracted)[0],
        )
        return bind(equation, [x, view.dense()])[0]

    def lookup(self, view, indices, equation):
        self._use(view, "gather")
        return bind(equation, [view.dense(), indices])[0]

    def ragged(self, view, x, sizes, equation):
        array = view.source.array
        if view.axes != whole(view.source).axes or array.ndim != 3 or x.ndim != 2:
            return "it is not rows times a stack of matrices"
        self._use(view, equation.primitive.name, (-2,), (-3,))

        def vectors():  # rows of other matrices are zero
            ends = jnp.cumsum(sizes)[:, None]
            row = jnp.arange(x.shape[0])
            mine = (row < ends) & (row >= ends - sizes[:, None])
            return jnp.where(mine[..., None], x, 0)

        self._gather(view, (-2,), (-3,), vectors)
        return bind(equation, [x, view.dense(), sizes])[0]

    def materialise(self, view, operation, why):
        self._use(view, operation)
        return view.dense()
