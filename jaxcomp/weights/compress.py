"""compress: one method for the weights of a tree, leaf by leaf.

Each weight is one matrix, or a stack of matrices where its record says that an axis is scanned or
batched over; the method sees one matrix at a time. What was observed decides which leaves, and
which of their axes are packed; without it, `axes` must say so.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcomp.base import Transform, UnsupportedInput
from jaxcomp.formats.layout import layout
from jaxcomp.formats.qtensor import check_finite
from jaxcomp.tree import leaves, map_where

Axes = int | tuple[int, ...]


def compress(
    params: Any,
    method: Transform | Callable[[str, Any], Transform],
    *,
    stats: Mapping[str, Any] | None = None,
    axes: Axes | Callable[[str, Any], Axes] | None = None,
    where: Callable[[str, Any], bool] | None = None,
) -> Any:
    """params with a compressed leaf in place of each selected weight.

    method  a Transform of this folder, or (path, leaf) -> Transform where leaves differ
    stats   what jc.observe(fn, params, batches) returned: which weights are multiplied, along which
            axes, and by what
    axes    without stats: the axes that products sum over, from the left or the right, or
            (path, leaf) -> axes. Axes before the second last stand for stacked matrices.
    where   (path, leaf) -> bool; by default every weight that stats saw multiplied, or, without
            stats, every float array of two axes or more

    Raises UnsupportedInput for NaN weights, for a selected weight that stats have not seen, for
    statistics that the method needs and stats lack, and where nothing is selected.
    """
    if stats is None and axes is None:
        raise UnsupportedInput(
            "expected stats or axes, got neither; pass stats=jc.observe(fn, params, batches), or "
            "axes=-2 where every selected weight is a kernel [in, out]"
        )
    seen = stats or {}
    if where is None:
        where = (lambda path, leaf: path in seen and seen[path].multiplied) if stats else _is_matrix
    chosen = [path for path, leaf in leaves(params) if where(path, leaf)]
    if not chosen:
        known = ", ".join([path for path, leaf in leaves(params) if _is_matrix(path, leaf)][:8])
        raise UnsupportedInput(
            f"expected where to select weights, got none; the matrices are: {known or 'none'}"
        )

    def one(path, w):
        transform = method if isinstance(method, Transform) else method(path, w)
        if stats is not None and path not in seen:
            raise UnsupportedInput(
                f"expected {path} among the observed weights, got {', '.join(seen) or 'none'}; "
                "observe a function that uses it, or leave it out with where="
            )
        if stats is None:
            packed = axes(path, w) if callable(axes) else axes
            packed = layout(w.shape, packed).axes
            leading = max(0, w.ndim - max(2, len(packed) + 1, -packed[0]))
            state = None
        else:
            packed, leading, state = seen[path].packed, seen[path].leading, seen[path].state
        if transform.statistic is not None and state is None:
            raise UnsupportedInput(
                f"expected statistics ({transform.statistic.name}) for {transform.name}, got none "
                f"for {path}; pass stats=jc.observe(fn, params, batches, "
                f"statistic=jc.weights.{transform.statistic.name})"
            )
        check_finite(w, path)
        try:
            return stacked(transform, w, state, packed, leading)
        except UnsupportedInput as error:
            raise UnsupportedInput(f"{path}: {error}") from error

    return map_where(one, params, where)


def stacked(transform: Transform, w: Any, state: Any, axes: tuple[int, ...], leading: int) -> Any:
    """The leaf of w whose first `leading` axes, and those of state, stand for single matrices."""
    if not leading:
        return transform.compress(w, state, axes)
    shape = w.shape[:leading]
    made = []
    for i in range(math.prod(shape)):
        at = tuple(int(j) for j in jnp.unravel_index(i, shape))
        made.append(transform.compress(w[at], jax.tree.map(lambda x, at=at: x[at], state), axes))
    stack = jax.tree.map(lambda *parts: jnp.stack(parts), *made)
    return jax.tree.map(lambda part: part.reshape(*shape, *part.shape[1:]), stack)


def _is_matrix(path: str, leaf: Any) -> bool:
    return getattr(leaf, "ndim", 0) >= 2 and jnp.issubdtype(leaf.dtype, jnp.floating)
