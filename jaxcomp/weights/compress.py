"""compress: one method for the weights of a tree, leaf by leaf.

Each weight is one matrix, or a stack of matrices where its record says that an axis is scanned or
batched over; the method sees one matrix at a time. What was observed decides which leaves, and
which of their axes are packed; without it, `axes` must say so.
"""

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.base import Statistic, Transform, UnsupportedInput
from jaxcomp.formats.format import Format
from jaxcomp.formats.layout import layout
from jaxcomp.formats.leaf import Leaf
from jaxcomp.formats.qtensor import check_finite
from jaxcomp.lift.call import check_takes_leaves, named, takes
from jaxcomp.lift.observe import Observation
from jaxcomp.lift.statistics import part
from jaxcomp.tree import leaves, map_where
from jaxcomp.weights.progress import progress
from jaxcomp.weights.rtn import rtn

Axes = int | tuple[int, ...]


def compress(
    params: Any,
    method: Transform | Format | Callable[[str, Any], Transform | Format | None],
    *,
    stats: Mapping[str, Any] | None = None,
    axes: Axes | Callable[[str, Any], Axes] | None = None,
    where: Callable[[str, Any], bool] | None = None,
    donate: bool = False,
) -> Any:
    """params with a compressed leaf in place of each selected weight; all else as it is.

    method  a Transform of this folder, a Format, which stands for rtn(format), or (path, leaf)
            -> one of them where leaves differ; None leaves one as it is
    stats   what jc.observe(fn, params, batches) returned: which weights are multiplied, along which
            axes, and by what
    axes    of weights that stats do not know: the axes that products sum over, from the left or the
            right, or (path, leaf) -> axes. Axes before the second last stand for stacked matrices.
    where   (path, leaf) -> bool, asked for every float array; by default those that stats saw
            multiplied, or, without stats, those of two axes or more
    donate  whether each weight is deleted once it is compressed: params can then not be used again,
            and memory stays below params, statistics and three times the largest leaf. Without, the
            compressed leaves come on top of params.

    Leaves that are compressed already, and arrays that are not floats, are left alone. A bar shows
    the progress of long work on a terminal. Raises UnsupportedInput, with the path of the leaf, for
    NaN weights, groups that do not divide, a selected weight that stats have not seen, statistics
    that the method needs and stats lack, that are not finite or that hold no vectors (of an expert,
    say, which no batch reached), and where nothing is selected.
    """
    if stats is None and axes is None:
        raise UnsupportedInput(
            "expected stats or axes, got neither; pass stats=jc.observe(fn, params, batches), or "
            "axes=-2 where every selected weight is a kernel [in, out]"
        )
    if not callable(method):
        _transform(method)
    _check_types(stats, axes, where)
    select = where
    if select is None:
        select = (lambda path, leaf: _is_matrix(leaf)) if stats is None else _multiplied(stats)
    floats = {path: leaf for path, leaf in leaves(params) if _is_float(leaf)}
    chosen = {path for path, leaf in floats.items() if select(path, leaf)}
    if not chosen:
        raise UnsupportedInput(_why_none(params, floats, stats, where))
    uses = collections.Counter(id(leaf) for _, leaf in leaves(params))  # of tied weights several

    def one(path, w):
        transform = _transform(_chosen(method, path, w) if callable(method) else method)
        advance(path)
        if transform is None:
            return w
        if not w.size:
            raise UnsupportedInput(
                f"{named(path)}: expected a weight with values, got shape {w.shape}; leave it "
                "out with where="
            )
        place = _place(path, w, stats, axes)
        state = _state(path, transform, stats)
        if state is not None:
            check_reached(path, state, stats[path], transform.name, "take jc.weights.rtn for it")
        if not transform.exact:
            check_finite(jnp.asarray(w), named(path))
        try:
            made = stacked(transform, w, state, *place)
        except UnsupportedInput as error:
            raise UnsupportedInput(f"{named(path)}: {error}") from error
        uses[id(w)] -= 1
        if donate and made is not w and isinstance(w, jax.Array) and not uses[id(w)]:
            jax.block_until_ready(made)
            w.delete()
        return made

    with progress(len(chosen)) as advance:
        return map_where(one, params, lambda path, leaf: path in chosen)


def _check_types(stats: Any, axes: Any, where: Any) -> None:
    """UnsupportedInput for options that are something else than they have to be."""
    known = isinstance(stats, Mapping)
    if stats is not None and not (
        known and all(isinstance(seen, Observation) for seen in stats.values())
    ):
        raise UnsupportedInput(
            f"expected stats as jc.observe returns them, {{path: Observation}}, got a "
            f"{type(stats).__name__}; pass stats=jc.observe(fn, params, batches)"
        )
    if callable(axes) and not takes(axes, 2):
        raise UnsupportedInput(
            f"expected axes, a function (path, leaf) -> axes, got {axes!r}, which does not take "
            "both; give it the two arguments"
        )
    if where is not None:
        check_takes_leaves(where, "where")


def _checked_axes(path: str, axes: Any) -> Axes:
    each = axes if isinstance(axes, tuple | list) else (axes,)
    if not all(isinstance(axis, int | np.integer) for axis in each):
        raise UnsupportedInput(
            f"{named(path)}: expected axes as an int or a tuple of them, got {axes!r}; pass -2 for "
            "a kernel [in, out]"
        )
    return tuple(map(int, each))


def _chosen(method: Callable[[str, Any], Any], path: str, w: Any) -> Any:
    if not takes(method, 2):
        raise UnsupportedInput(f"{_EXPECTED}, got {method!r}; {_CALLED}")
    return method(path, w)


def _transform(method: Any) -> Transform | None:
    """A Transform, of a Format too; None stays."""
    if isinstance(method, Format):
        return rtn(method)
    if method is None or isinstance(method, Transform):
        return method
    raise UnsupportedInput(f"{_EXPECTED}, got {method!r}; {_CALLED}")


_EXPECTED = "expected a Transform, a Format, or a function (path, leaf) -> one of them"
_CALLED = "pass jc.weights.rtn(jc.formats.INT8), say. Was rtn(...) not called?"


def _why_none(params: Any, floats: Mapping[str, Any], stats: Any, where: Any) -> str:
    """What to say where nothing is selected."""
    packed = [path for path, leaf in leaves(params) if isinstance(leaf, Leaf)]
    matrices = [path for path, leaf in floats.items() if _is_matrix(leaf)]
    known = f"the matrices are: {_list(matrices)}"
    if stats is not None and not {path for path, _ in leaves(params)} & set(stats):
        return (
            f"expected stats of these params, got none of their paths but {_list(stats)}; "
            f"{known}. Pass what jc.observe returned for this very tree"
        )
    if packed and (not matrices if stats is None else any(path in stats for path in packed)):
        return (
            f"expected weights to compress, got a tree where {_list(packed)} are "
            "compressed already; pass the dense params"
        )
    if where is not None:
        return f"expected where to select weights, got none; {known}. Let it return True for some"
    return (
        f"expected a weight that is multiplied, got none; {known}. Name some with where=, and, if "
        "stats do not know them, axes="
    )


def _list(paths: Iterable[str]) -> str:
    """The first of them, to read."""
    return ", ".join([named(path) for path in paths][:8]) or "none"


def stacked(transform: Transform, w: Any, state: Any, axes: tuple[int, ...], leading: int) -> Any:
    """The leaf of w whose first `leading` axes, and those of state, stand for single matrices."""
    if not leading:
        return transform.compress(w, state, axes)
    shape = w.shape[:leading]
    made = []
    for at in np.ndindex(*shape):
        made.append(transform.compress(w[at], jax.tree.map(lambda x, at=at: x[at], state), axes))
    if not all(isinstance(leaf, Leaf) for leaf in made):
        return w  # a method that keeps every bit found no use in some of them
    stack = jax.tree.map(lambda *parts: jnp.stack(parts), *made[0].alike(made))
    return jax.tree.map(lambda part: part.reshape(*shape, *part.shape[1:]), stack)


def _place(path: str, w: Any, stats: Any, axes: Any) -> tuple[tuple[int, ...], int]:
    """(packed axes, how many first axes stand for separate matrices) of a weight."""
    seen = None if stats is None else stats.get(path)
    if seen is not None and seen.shape != tuple(w.shape):
        raise UnsupportedInput(
            f"{named(path)}: expected the shape that was observed, {seen.shape}, got "
            f"{tuple(w.shape)}; observe these params"
        )
    if seen is not None and seen.packed:
        return seen.packed, seen.leading
    if axes is not None:
        wanted = axes(path, w) if callable(axes) else axes
        packed = layout(w.shape, _checked_axes(path, wanted)).axes
        return packed, max(0, w.ndim - max(2, len(packed) + 1, -packed[0]))
    if seen is None:
        raise UnsupportedInput(
            f"expected {named(path)} among the observed weights, got {_list(stats)}; "
            "observe a function that uses it, leave it out with where=, or pass axes="
        )
    met = {use.operation for use in seen.uses}
    if "gather" in met:  # rows that are looked up, and no more: each is packed along itself
        return (-1,), 0
    raise UnsupportedInput(
        f"{named(path)}: expected a product with the whole weight, got {', '.join(sorted(met))}; "
        "leave it out with where=, or pass axes="
    )


def _state(path: str, transform: Transform, stats: Any) -> Any:
    """The statistic that the method needs."""
    need: Statistic | None = transform.statistic
    if need is None:
        return None
    seen = None if stats is None else stats.get(path)
    state = None if seen is None else part(need, seen.state)
    if state is None:
        raise UnsupportedInput(
            f"{named(path)}: expected statistics for {transform.name}, got none or others; pass "
            f"stats=jc.observe(fn, params, batches, statistic={need.name}), of jc.weights"
        )
    if not all(jnp.isfinite(x).all() for x in jax.tree.leaves(state)):
        raise UnsupportedInput(
            f"{named(path)}: expected finite statistics for {transform.name}, got NaN or infinity; "
            "observe batches without NaN, and a function that does not overflow on them"
        )
    return state


def check_reached(path: str, state: Any, seen: Any, what: str, instead: str) -> None:
    """UnsupportedInput for matrices of which nothing was gathered: experts, branches not taken.

    Told by states of zeros, as those of every Statistic here begin. what: needs them; instead: what
    else may be done.
    """
    lead = seen.shape[: seen.leading]
    missed = np.ones(lead, bool)
    for x in sorted(jax.tree.leaves(state), key=lambda x: x.size):  # a count, mostly, says it all
        if not missed.any():
            return
        missed &= ~np.asarray(x).reshape(*lead, -1).any(-1)
    if not missed.any():
        return
    at = np.argwhere(missed).tolist()
    which = f" for {len(at)} of {missed.size} matrices, {at[:8]}" if lead else ""
    raise UnsupportedInput(
        f"{named(path)}: expected vectors that multiply it, for {what}, got none but "
        f"zeros{which}; observe batches that reach all of it, leave it out with where=, or "
        f"{instead}"
    )


def _multiplied(stats: Mapping[str, Any]) -> Callable[[str, Any], bool]:
    return lambda path, leaf: path in stats and stats[path].multiplied


def _is_float(leaf: Any) -> bool:
    if isinstance(leaf, Leaf) or not hasattr(leaf, "dtype"):
        return False
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _is_matrix(leaf: Any) -> bool:
    return leaf.ndim >= 2
