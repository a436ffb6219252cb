"""symmetries(fn, params, *args): how weights can change while fn stays what it is.

Neighbouring weights share hidden axes that nothing else sees: what one writes scaled, permuted or
rotated, the next reads back. Found in the traced function of any model, not by the names of layers:
one walk on labels (symmetry_walk.py) for each kind.

scale        channel c times s[c] > 0 where it is written, 1 / s[c] where it is read: norm gains and
             the projections behind them, up and down of a gated MLP, values and output projections
             through attention, units of a ReLU network. What passes another nonlinearity, a norm or
             a residual stream has none.
orthogonal   vectors times R where they are written, R^T where they are read: a residual stream
             whose norms are RMS norms, values to the output projection, one for each key-value
             head. LayerNorm takes a mean away, which no rotation keeps: its stream has none.

Found are only symmetries that hold for every input, to rounding, at the traced shapes. A weight
that is used twice has one where all uses agree: a table that is looked up and multiplied has none.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.leaf import Leaf
from jaxcomp.lift import symmetry_orthogonal, symmetry_scale
from jaxcomp.lift.call import Call, split
from jaxcomp.lift.symmetry_book import Role
from jaxcomp.lift.symmetry_orthogonal import Rotations
from jaxcomp.lift.symmetry_scale import Scales
from jaxcomp.lift.symmetry_walk import Domain, evaluate, still
from jaxcomp.lift.view import Source, whole


class Member(NamedTuple):
    """One weight of a symmetry.

    path      of it in params
    axes      those that carry the channels, counted from the right
    channels  i32, of the sizes of those axes: which channel each index is; -1 for none. Where a
              channel stands several times in a rotation, the first ones of all channels are one
              vector, the second ones another
    gain      rotations, readers only: path of a norm's gain between the shared channels and this
              weight, to be folded into it first (weights/fold.py)
    """

    path: str
    axes: tuple[int, ...]
    channels: np.ndarray
    gain: str | None = None


class Symmetry(NamedTuple):
    """fn is unchanged when writers are changed one way and readers the other.

    kind     "scale" or "orthogonal"
    size     number of channels
    writers  channel c times s[c], or the axis by R
    readers  channel c times 1 / s[c], or the axis by R^T
    """

    kind: str
    size: int
    writers: tuple[Member, ...]
    readers: tuple[Member, ...]


def symmetries(
    fn: Callable[..., Any],
    params: Any,
    *args: Any,
    where: Callable[[str, Any], bool] | None = None,
) -> list[Symmetry]:
    """All scales, then all rotations, that leave fn(params, *args) what it is.

    args   as fn takes them, or jax.ShapeDtypeStruct: nothing is computed. Labels are of the size of
           activations, so a batch of one short sequence is best
    where  (path, leaf) -> bool: which weights may change; by default every float array of params

    Stacked layers that are looped over are one symmetry with channels of their own for each layer,
    and one rotation for each layer where vectors stay inside it. Left alone: what crosses a while
    loop, shard_map or a loop of more than 512 turns, compressed leaves, ragged products.
    """
    call = split(fn, (params, *args), {})
    chosen = {
        path: tuple(x.shape)
        for path, x in zip(call.paths, call.arrays, strict=True)
        if not path.startswith("argument ") and not isinstance(x, Leaf)
        if jnp.issubdtype(x.dtype, jnp.floating) and x.size and (where is None or where(path, x))
    }
    if not chosen:
        raise UnsupportedInput(
            "expected a float array of params that may change, got none; check where=, and that "
            "params, the first argument, holds arrays"
        )
    scales, rotations = Scales(chosen), Rotations(chosen)
    for domain in (scales, rotations):
        jax.eval_shape(lambda arrays, domain=domain: _walk(call, arrays, domain), call.arrays)
    found = _scales(scales)
    return [*found, *_rotations(rotations, found)]


def _walk(call: Call, arrays: list[Any], domain: Domain) -> list[Any]:
    traced = call.trace(arrays)
    inputs = [
        whole(Source(path, x, ndim=len(x.shape)))
        if path in domain.book.shapes
        else domain.value(x.shape)
        for path, x in zip(call.paths, arrays, strict=True)
    ]
    still(evaluate(traced.jaxpr, inputs, domain), domain)
    return []


def _scales(scales: Scales) -> list[Symmetry]:
    classes = symmetry_scale.settle(scales)
    roles = list(scales.book.roles.values())
    own = [np.unique(classes[role.labels]) for role in roles]
    ends = {
        kind: np.concatenate([[0], *(c for c, r in zip(own, roles, strict=True) if r.kind == kind)])
        for kind in ("writer", "reader")
    }
    alive = np.intersect1d(ends["writer"], ends["reader"])[1:]  # without 0
    own = [np.intersect1d(c, alive) for c in own]
    rows = np.repeat(np.arange(len(roles)), [len(c) for c in own])
    columns = len(roles) + np.concatenate(own)
    size = len(roles) + int(classes.max()) + 1
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(size, size))
    group = connected_components(graph, directed=False)[1][: len(roles)]
    made = []
    for each in dict.fromkeys(g for g, c in zip(group, own, strict=True) if len(c)):
        channels = np.unique(np.concatenate([own[i] for i in np.flatnonzero(group == each)]))
        number = np.full(classes.max() + 1, -1, np.int32)
        number[channels] = np.arange(len(channels))
        mine = [roles[i] for i in np.flatnonzero(group == each)]
        made.append(_symmetry("scale", len(channels), mine, number[classes], {}))
    return made


def _symmetry(
    kind: str, size: int, roles: list[Role], number: np.ndarray, gains: dict[str, str | None]
) -> Symmetry:
    """number: i32[labels], the channel of each."""
    sides: dict[str, list[Member]] = {"writer": [], "reader": []}
    for role in roles:
        channels = number[role.labels]
        rank = channels.ndim
        axes = []
        for axis in role.axes:
            first = channels.take([0], axis + rank)
            if (channels == first).all():
                channels = first
            else:
                axes.append(axis)
        channels = channels.reshape([channels.shape[axis] for axis in axes])
        gain = gains.get(role.path) if role.kind == "reader" else None
        sides[role.kind].append(Member(role.path, tuple(axes), channels, gain))
    return Symmetry(kind, size, tuple(sides["writer"]), tuple(sides["reader"]))


def _rotations(rotations: Rotations, scales: list[Symmetry]) -> list[Symmetry]:
    classes, blocks = symmetry_orthogonal.settle(rotations)
    vector = symmetry_orthogonal.vector_of(rotations)
    roles = list(rotations.book.roles.values())
    where: dict[int, list[Role]] = {}
    for role in roles:
        for block in np.unique(blocks[classes[role.labels]]):
            where.setdefault(int(block), []).append(role)
    where.pop(0, None)
    made = []
    for block, mine in where.items():
        members = np.flatnonzero(blocks == block)
        if len(members) < 2 or {role.kind for role in mine} != {"writer", "reader"}:
            continue
        number = np.full(len(blocks), -1, np.int32)
        number[members] = np.arange(len(members))
        number = number[classes]
        notes = {r.path: rotations.gains.get(r.path, set()) for r in mine if r.kind == "reader"}
        if any(len(found) != 1 for found in notes.values()):
            continue
        gains = {path: next(iter(found)) for path, found in notes.items()}
        whole_vectors = all(
            _aligned(number[r.labels], vector[r.labels], len(members)) for r in mine
        )
        shapes = rotations.book.shapes
        folds = all(_foldable(g, shapes[g], gains, scales) for g in gains.values() if g is not None)
        if whole_vectors and folds:
            made.append(_symmetry("orthogonal", len(members), mine, number, gains))
    return made


def _aligned(channels: np.ndarray, vector: np.ndarray, size: int) -> bool:
    """Whether the n-th ones of all channels are one vector."""
    there = channels >= 0
    channels, vector = channels[there], vector[there]
    counts = np.bincount(channels, minlength=size)
    if (counts != counts[0]).any():
        return False
    vector = vector[np.argsort(channels, kind="stable")].reshape(size, -1)
    return bool((vector == vector[0]).all())


def _foldable(
    gain: str, shape: tuple[int, ...], gains: dict[str, str | None], scales: list[Symmetry]
) -> bool:
    """Whether a gain can become ones: a channel for each of its elements, read by these alone."""
    for scale in scales:
        if [m.path for m in scale.writers] == [gain]:
            channels = np.sort(scale.writers[0].channels, axis=None)
            each = scale.size == np.prod(shape) and np.array_equal(channels, np.arange(scale.size))
            return bool(each) and all(gains.get(m.path) == gain for m in scale.readers)
    return False
