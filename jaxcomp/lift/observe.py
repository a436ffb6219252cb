"""observe(fn, params, batches): what multiplies each weight, and along which axes.

The same walk as lift's. A first, abstract pass records every operation that meets a weight and the
axes that it sums over: that fixes how the weight will be packed, whatever its layout. Then each
batch runs once, and a statistic of the vectors that multiply each weight is kept up to date.
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxcomp.base import Statistic, UnsupportedInput
from jaxcomp.formats.leaf import Leaf, dense
from jaxcomp.lift import convolution, joins
from jaxcomp.lift.call import Call, check_takes_leaves, named, split
from jaxcomp.lift.statistics import second_moment
from jaxcomp.lift.view import Source, View, whole
from jaxcomp.lift.walk import bind, evaluate


class Use(NamedTuple):
    """One operation that meets a weight. Axes are counted from the right.

    operation   its name
    contracted  the axes that it sums over; () for lookups and for what is no product
    single      axes that are met one index at a time: looped over, indexed, or batched with the
                other operand
    """

    operation: str
    contracted: tuple[int, ...]
    single: tuple[int, ...]


class Observation(NamedTuple):
    """What was seen of one weight.

    shape    of the weight
    uses     every operation that meets it
    packed   the axes that most of its products sum over, counted from the right; () if none does
    leading  how many first axes stand for separate matrices (stacked layers, experts)
    state    the statistic's, with those axes in front, of the products that sum over `packed`;
             None if nothing was gathered
    """

    shape: tuple[int, ...]
    uses: tuple[Use, ...]
    packed: tuple[int, ...]
    leading: int
    state: Any

    @property
    def multiplied(self) -> bool:
        """Whether a product with the whole of `packed` was seen, not only lookups."""
        return bool(self.packed)


def observe(
    fn: Callable[..., Any],
    params: Any,
    batches: Iterable[Any],
    *,
    where: Callable[[str, Any], bool] | None = None,
    statistic: Statistic | tuple[Callable[..., Any], Callable[..., Any]] | None = second_moment,
) -> dict[str, Observation]:
    """{path: Observation} of the weights in params, over fn(params, *batch) for each batch.

    batches    any iterable; a tuple is several arguments. One compiled step per shape of a batch.
               Batches may be sharded over devices: statistics are those of the whole batch. Inside
               shard_map every row counts on each device that multiplies it, and weights are whole.
    where      (path, leaf) -> bool: which weights are watched; by default every float array of
               params that something multiplies
    statistic  what is gathered: second_moment, mean_magnitude, max_magnitude, both(...) of them, or
               your own (init(size) -> state, update(state, x f32[vectors, size]) -> state).
               None only records, from the first batch, which may then hold jax.ShapeDtypeStruct.

    Every vector counts, padded positions too unless they are zero: leave padding out of batches.
    A product with part of a packed axis, and a weight that is changed by arithmetic first, are
    recorded and not watched; of weights that fn joins along another axis each is watched by itself.
    Compressed leaves of params run as the dense weights they stand for.

    Memory is one batch, its activations, and the statistics: [in, in] float32 for second moments.
    Raises UnsupportedInput where there is no batch, or where selects nothing that is multiplied.
    """
    if isinstance(batches, dict | str) or hasattr(batches, "dtype") or not _loops(batches):
        raise UnsupportedInput(
            f"expected an iterable of batches, got one {type(batches).__name__}; pass [batch]"
        )
    if statistic is not None and not isinstance(statistic, Statistic):
        pair = isinstance(statistic, tuple) and len(statistic) == 2
        if not pair or not all(map(callable, statistic)):
            raise UnsupportedInput(
                f"expected a Statistic, or a pair of functions (init, update), got {statistic!r}; "
                "pass jc.weights.second_moment, say"
            )
        statistic = Statistic(*statistic, "statistic")
    batches = iter(batches)
    batch = next(batches, _NONE)
    if batch is _NONE:
        raise UnsupportedInput("expected a batch, got an empty iterable; pass one or more")
    first = split(fn, (params, *_arguments(batch)), {})
    record, selected = recorded(first, where), _selected(first, where)
    if where is not None and not selected:
        raise UnsupportedInput(
            "expected where to select weights, got none of the float arrays of params, "
            f"{', '.join(map(named, sorted(_selected(first, None))[:8]))}; let it return True for "
            "some, or leave it out"
        )
    del first
    watched = {path: seen for path, seen in record.items() if seen.multiplied}
    if not watched:
        raise UnsupportedInput(
            "expected a selected weight that fn multiplies, got none; "
            f"{_met(record)}. Check where=, and that fn uses its first argument"
        )
    if statistic is None:
        return record
    place = _everywhere(params, batch)
    state = {path: _begin(statistic, seen) for path, seen in watched.items()}
    state = state if place is None else jax.device_put(state, place)

    programs: dict[Any, Any] = {}
    while batch is not _NONE:
        call = split(fn, (params, *_arguments(batch)), {})
        arrays, call = call.arrays, call._replace(arrays=[])  # a program must not keep its batch
        key = (call.static, call.tree)
        if key not in programs:
            programs[key] = jax.jit(
                lambda state, arrays, call=call: _watch(
                    call, arrays, selected, _Watcher(dict(state), watched, statistic)
                ),
                donate_argnums=0,
                out_shardings=place,
            )
        state = programs[key](state, arrays)
        del arrays, batch  # nor does the next one have to find room beside it
        batch = next(batches, _NONE)
    return {
        path: seen._replace(state=state[path]) if path in state else seen
        for path, seen in record.items()
    }


_NONE = object()


def _loops(batches: Any) -> bool:
    """Whether one can go through them; iterators and objects with only __getitem__ too."""
    return hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")


def _arguments(batch: Any) -> tuple[Any, ...]:
    return batch if isinstance(batch, tuple) else (batch,)


def _met(record: dict[str, Observation]) -> str:
    if not record:
        return "nothing of params is used"
    met = [
        f"{named(path)} by {', '.join(u.operation for u in seen.uses)}"
        for path, seen in record.items()
    ]
    return "met are " + "; ".join(met[:8])


def _everywhere(*trees: Any) -> NamedSharding | None:
    """Where statistics of sharded arrays lie: on every device of their mesh."""
    for x in jax.tree.leaves(trees):
        place = getattr(x, "sharding", None)
        if isinstance(place, NamedSharding) and place.mesh.size > 1:
            return NamedSharding(place.mesh, PartitionSpec())
    return None


def recorded(call: Call, where: Callable[[str, Any], bool] | None = None) -> dict[str, Observation]:
    """What meets each selected weight of the call's first argument, from shapes alone."""
    selected = _selected(call, where)
    handler = _Watcher({}, {}, None)
    jax.eval_shape(lambda arrays: _walk(call, arrays, selected, handler), call.arrays)
    shapes = dict(zip(call.paths, (x.shape for x in call.arrays), strict=True))
    found = {}
    for path, uses in handler.uses.items():
        kinds = [use.contracted for use in uses if use.contracted]
        packed = max(kinds, key=kinds.count, default=())
        rank = len(shapes[path])
        single = {axis for use in uses if use.contracted == packed for axis in use.single}
        leading = 0
        while packed and leading - rank in single:
            leading += 1
        found[path] = Observation(shapes[path], tuple(dict.fromkeys(uses)), packed, leading, None)
    return found


def _selected(call, where) -> set[str]:
    if where is not None:
        check_takes_leaves(where, "where")
    chosen = set()
    for path, x in zip(call.paths, call.arrays, strict=True):
        mine = not path.startswith("argument ") and not isinstance(x, Leaf)
        if mine and jnp.issubdtype(x.dtype, jnp.floating) and (where is None or where(path, x)):
            chosen.add(path)
    return chosen


def _begin(statistic: Statistic, seen: Observation) -> Any:
    lead = seen.shape[: seen.leading]
    size = math.prod(seen.shape[axis] for axis in seen.packed)
    begun = statistic.init(size)
    given = jax.eval_shape(lambda: begun)
    made = jax.eval_shape(statistic.update, given, jax.ShapeDtypeStruct((1, size), jnp.float32))
    wanted, got = (jax.tree.map(lambda x: f"{x.dtype}{[*x.shape]}", x) for x in (given, made))
    if wanted != got:
        raise UnsupportedInput(
            f"expected update of {statistic.name} to return a state as init({size}) does, "
            f"{wanted}, got {got}; sum over the vectors, the first axis of x"
        )
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (*lead, *x.shape)), begun)


def _watch(call, arrays, selected, handler) -> dict[str, Any]:
    _walk(call, arrays, selected, handler)
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

    def _use(self, source: Source, operation: str, contracted=(), batch=()) -> None:
        for part, *_ in source.parts:
            self._use(part, operation, contracted, batch)
        if source.parts:
            return
        shape = source.array.shape
        single = {*range(-source.ndim, -len(shape)), *batch}
        single |= {axis for axis, _ in source.at if axis < -len(shape) or shape[axis] == 1}
        use = Use(operation, tuple(contracted), tuple(sorted(single)))
        self.uses.setdefault(source.path, []).append(use)

    def _meet(self, source, operation, contracted, batch, vectors, x, one=None, when=True) -> None:
        """A product: its use, and the statistic of vectors(x) [*batch, rows, in].

        With `one`, vectors(x) is a tree of arrays [*batch, ...], and one(x, item) is [rows, in]:
        the matrices then take turns. when: whether there is a product, where only a loop knows.
        """
        at = dict(source.at)
        meetings = joins.meetings(source, contracted, batch) if source.parts else []
        if meetings is None or any(axis in at for axis in contracted):
            return self._use(source, f"{operation} with a part of it")
        for each in meetings:
            own = functools.partial(lambda own, x: own(vectors(x)), each.own)
            self._meet(each.source, operation, contracted, each.batch, own, x, one, each.when)
        if source.parts:
            return None
        self._use(source, operation, contracted, batch)
        seen = self.watched.get(source.path)
        if seen is None or seen.packed != tuple(contracted):
            return None
        rank, looped = len(seen.shape), -len(source.array.shape)
        leading = list(range(-rank, seen.leading - rank))
        if source.cuts.intersection(leading):  # of which matrices these are the inputs is not known
            return None

        def gather(state, x, at):
            def update(state, item, axes, batch):
                if not axes:
                    rows = item if one is None else one(x, item)
                    rows = rows.reshape(-1, rows.shape[-1]).astype(jnp.float32)
                    return self.statistic.update(state, rows)
                axis, *axes = axes
                size = 1 if axis < looped else source.array.shape[axis]
                here = state
                if axis in at:
                    here = jax.tree.map(
                        lambda s: lax.dynamic_slice_in_dim(s, at[axis], size), state
                    )
                if axis not in batch:  # the same vectors meet every matrix
                    new = jax.vmap(lambda s: update(s, item, axes, batch))(here)
                else:
                    place = batch.index(axis)
                    rest = [a for a in batch if a != axis]
                    items = jax.tree.map(lambda i: jnp.moveaxis(i, place, 0), item)
                    if one is None:
                        new = jax.vmap(lambda s, i: update(s, i, axes, rest))(here, items)
                    else:
                        new = lax.map(lambda si: update(*si, axes, rest), (here, items))
                if axis not in at:
                    return new
                return jax.tree.map(
                    lambda s, n: lax.dynamic_update_slice_in_dim(s, n, at[axis], 0), state, new
                )

            return update(state, _gathered(vectors(x), one), leading, list(batch))

        mesh = jax.typeof(x).sharding.mesh
        if any(kind == AxisType.Explicit for kind in mesh.axis_types):
            place = NamedSharding(mesh, PartitionSpec())
            gather = jax.sharding.auto_axes(gather, out_sharding=place)
        state = self.state[source.path]
        if when is True:
            self.state[source.path] = gather(state, x, at)
        else:
            self.state[source.path] = lax.cond(when, gather, lambda s, x, at: s, state, x, at)
        return None

    def product(self, view, x, plan, equation):
        self._meet(view.source, "dot_general", plan.contracted, plan.batch, plan.vectors, x)
        operands = [view.dense(), x] if plan.first else [x, view.dense()]
        return bind(equation, operands)[0]

    def convolution(self, view, x, equation):
        params = equation.params
        contracted = convolution.summed_axes(view, params)
        if isinstance(contracted, str):
            return contracted

        def vectors(x):
            return convolution.patches(view, x, params, contracted)[0]

        self._meet(view.source, "conv_general_dilated", contracted, (), vectors, x)
        return bind(equation, [x, view.dense()])[0]

    def lookup(self, view, indices, equation):
        self._use(view.source, "gather")
        return bind(equation, [view.dense(), indices])[0]

    def ragged(self, view, x, sizes, equation):
        array = view.source.array
        if view.axes != whole(view.source).axes or array.ndim != 3 or x.ndim != 2:
            return "it is not rows times a stack of matrices"
        numbers = equation.params.get("ragged_dot_dimension_numbers")
        if numbers is not None and (
            numbers.dot_dimension_numbers != (((1,), (1,)), ((), ()))
            or tuple(numbers.rhs_group_dimensions) != (0,)
        ):
            return "it is not rows times a stack of matrices"
        ends = jnp.cumsum(sizes)

        def one(x, group):  # the rows of other matrices are zero
            end, size = group
            row = jnp.arange(x.shape[0])
            return jnp.where(((row < end) & (row >= end - size))[:, None], x, 0)

        name = equation.primitive.name
        self._meet(view.source, name, (-2,), (-3,), lambda x: (ends, sizes), x, one)
        return bind(equation, [x, view.dense(), sizes])[0]

    def materialise(self, view, operation, why):
        self._use(view.source, operation)
        return view.dense()


def _gathered(vectors: Any, one: Any) -> Any:
    """Rows of all devices where a function runs on each by itself, inside shard_map."""
    names = [jax.typeof(x).manual_axis_type.varying for x in jax.tree.leaves(vectors)]
    names = tuple(sorted(frozenset().union(*names)))
    if not names:
        return vectors
    if one is not None:
        raise UnsupportedInput(
            "expected a ragged product of whole arrays, got one inside shard_map; observe the "
            "function without shard_map, or pass statistic=None"
        )
    # Every device adds its own rows, in their place among zeros: a sum is known to be the same
    # everywhere, as the state has to be.
    count = math.prod(lax.axis_size(name) for name in names)
    place = lax.axis_index(names)
    rows = jnp.where(jnp.arange(count)[:, None, None] == place, vectors[..., None, :, :], 0)
    rows = lax.psum(rows, names)  # [*batch, devices, rows, in]
    return rows.reshape(*rows.shape[:-3], -1, rows.shape[-1])
