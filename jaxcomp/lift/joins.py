"""What a product with joined weights says of each of them.

lift multiplies leaves that a function joins (the kernels of q, k and v, say) as one. Who watches
dense weights has to know which of them meets which vectors.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
from jax import lax

from jaxcomp.lift.view import Source


class Meeting(NamedTuple):
    """One of the joined weights in a product.

    source  the weight, with its shape in place of an array
    batch   its axes that are paired with axes of x
    own     of the vectors [*batch of the product, ...] those that meet it, [*batch, ...]
    when    whether the product has a part of it: True, or what a loop knows only as it runs
    """

    source: Source
    batch: tuple[int, ...]
    own: Callable[[Any], Any]
    when: Any


def meetings(
    source: Source, contracted: tuple[int, ...], batch: tuple[int, ...]
) -> list[Meeting] | None:
    """The meetings of a joined source; None where the product is not one with each by itself:
    where it sums over the joined axis, or has entries of it that are not in order."""
    axis, shape, at = source.along, source.array.shape, dict(source.at)
    run = axis in at
    if axis in contracted or axis in source.cuts or (run and axis in batch):
        return None
    inside = axis >= -len(shape)  # no loop goes over it
    first, length = at.pop(axis, 0), shape[axis] if inside else 1
    found = []
    for part, start, size in source.parts:
        when = not run or (first < start + size) & (first + length > start)
        if when is False:
            continue
        stacked = part.ndim < source.ndim
        here = {a: i + dict(part.at).get(a, 0) for a, i in at.items()}
        here = {**dict(part.at), **here}
        sizes, cuts = list(shape), source.cuts
        if inside and stacked:
            del sizes[axis]
        elif inside:
            sizes[axis] = min(size, length)
        if run and not stacked:
            here[axis] = first - start + dict(part.at).get(axis, 0)
            cuts = cuts | {axis} if length > 1 else cuts  # a run may begin in the weight before
        shapes = jax.ShapeDtypeStruct(sizes, source.array.dtype)
        mine = replace(part, array=shapes, at=tuple(here.items()), cuts=cuts)
        paired = tuple(a for a in batch if a != axis or not stacked)
        found.append(Meeting(mine, paired, _own(axis, batch, start, size, stacked), when))
    return found


def _own(
    axis: int, batch: tuple[int, ...], start: int, size: int, stacked: bool
) -> Callable[[Any], Any]:
    def own(vectors):
        if axis not in batch:
            return vectors
        place = batch.index(axis)
        if stacked:
            return jax.tree.map(lambda v: v[(slice(None),) * place + (start,)], vectors)
        return jax.tree.map(lambda v: lax.slice_in_dim(v, start, start + size, axis=place), vectors)

    return own
