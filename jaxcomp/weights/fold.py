"""Scales and rotations folded into neighbouring weights, so that nothing is left to run.

A symmetry (jaxcomp.lift.symmetry) names weights that write hidden channels and weights that read
them. What is written is x; a factor makes it

    scale       x * s     writers times s, readers by 1 / s
    orthogonal  x @ R     writers W R, readers R^T W

and fn stays what it is. `apply` changes params, `moved` what was observed of the readers' inputs,
`without_gains` takes the gains of norms out of the way of rotations. All may be traced in params
and in the factor.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcomp.base import UnsupportedInput
from jaxcomp.lift.call import named
from jaxcomp.lift.observe import Observation
from jaxcomp.lift.statistics import part, second_moment
from jaxcomp.lift.symmetry import Member, Symmetry, symmetries
from jaxcomp.tree import leaves, map_where

# R^T R of a rotation in float32 is off the identity by 1e-6 to 1e-5; where it is rounded to
# bfloat16 by 4e-3, which outputs would show.
ORTHOGONAL = 1e-3


def apply(params: Any, symmetry: Symmetry, factor: ArrayLike) -> Any:
    """params with f32[size] scales, all positive, or an orthogonal f32[size, size] folded in.

    Rotations behind a norm's gain need params of `without_gains`. UnsupportedInput for a factor of
    another shape, and, where values are known, scales that are not positive and finite, a matrix
    that is not orthogonal and a gain that is not ones.
    """
    factor = jnp.asarray(factor, jnp.float32)
    _check(symmetry, factor)
    if symmetry.kind == "scale":
        sides = (symmetry.writers, factor), (symmetry.readers, 1 / factor)
        changes = [(m, f) for members, f in sides for m in members]
        return _changed(params, changes, _scaled)
    gains = {m.gain for m in symmetry.readers} - {None}
    for path, gain in leaves(params) if gains else ():
        known = path in gains and not isinstance(gain, jax.core.Tracer)
        if known and (np.asarray(gain) != 1).any():
            raise UnsupportedInput(
                f"{path}: expected a gain of ones before its vectors are rotated, got others; pass "
                "params of without_gains"
            )
    members = (*symmetry.writers, *symmetry.readers)
    return _changed(params, [(m, factor) for m in members], _rotated)


def without_gains(params: Any, found: Sequence[Symmetry]) -> Any:
    """params whose gains between rotated vectors and their readers are ones, folded into these.

    found: everything that `symmetries` returned, as the scales among it say where a gain goes.
    """
    gains = {m.gain for s in found for m in s.readers} - {None}
    for scale in found:
        (gain, *others) = scale.writers
        if scale.kind != "scale" or others or gain.path not in gains:
            continue
        values = jnp.asarray(dict(leaves(params))[gain.path], jnp.float32)
        values = values.reshape(gain.channels.shape)  # a channel for each of its elements
        factor = jnp.zeros(scale.size).at[gain.channels].set(values)
        params = _changed(params, [(m, factor) for m in scale.readers], _scaled)
        params = _changed(params, [(gain, factor)], lambda w, *_: jnp.ones_like(w))
    return params


def moved(
    stats: Mapping[str, Observation], symmetry: Symmetry, factor: ArrayLike
) -> dict[str, Observation]:
    """stats as they were observed of the changed params: of readers' inputs, nothing else changes.

    Scales move second moments, largest and mean magnitudes. Rotations move second moments; other
    states are gone, as nothing tells them: observe again where they are needed.
    """
    factor = jnp.asarray(factor, jnp.float32)
    _check(symmetry, factor)
    new = dict(stats)
    for member in symmetry.readers:
        seen = stats.get(member.path)
        if seen is None or seen.state is None:
            continue
        channels = input_channels(member, seen)
        state = None
        if channels is not None and symmetry.kind == "scale":
            state = _scaled_state(seen.state, _factors(channels, factor))
        elif channels is not None and part(second_moment, seen.state) is not None:
            kept = part(second_moment, seen.state)
            turn = _turn(channels, factor)
            moment = jnp.swapaxes(turn, -1, -2) @ kept["moment"] @ turn
            state = {**kept, "moment": moment}
        new[member.path] = seen._replace(state=state)
    return new


def input_channels(member: Member, seen: Observation) -> np.ndarray | None:
    """i32[*leading, in]: the channel of each input of each matrix of a reader.

    None where its products, as observed, do not sum over the channels.
    """
    rank = len(seen.shape)
    lead = tuple(range(-rank, seen.leading - rank))
    order = (*lead, *seen.packed)
    if not set(member.axes) <= set(order):
        return None
    wide = [seen.shape[axis] if axis in member.axes else 1 for axis in order]
    position = np.argsort(np.argsort([order.index(axis) for axis in member.axes]))
    channels = np.moveaxis(member.channels, range(member.channels.ndim), position)
    channels = np.broadcast_to(channels.reshape(wide), [seen.shape[axis] for axis in order])
    return channels.reshape(*(seen.shape[axis] for axis in lead), -1)


class Reader(NamedTuple):
    """One matrix that reads channels: of a stack, one of its layers.

    path      of the weight
    matrix    [out, in]
    channels  i32[in], -1 for inputs that are no channel
    state     the statistic of its inputs
    """

    path: str
    matrix: jax.Array
    channels: np.ndarray
    state: Any


def fold(
    fn: Callable[..., Any],
    params: Any,
    batch: Any,
    stats: Mapping[str, Observation] | None,
    choose: Callable[[list[Reader]], tuple[np.ndarray, jax.Array]],
) -> tuple[Any, dict[str, Observation]]:
    """(params, stats) with the scales that `choose` finds folded into all symmetries of fn.

    batch   one as observe takes them: a tuple is several arguments. Only its shapes count
    choose  all readers of some channels -> (channels, f32 what the input of each is multiplied by)

    Raises UnsupportedInput where stats hold no statistics, or some that are not finite.
    """
    states = {path: seen.state for path, seen in (stats or {}).items() if seen.state is not None}
    if not jax.tree.leaves(states):
        raise UnsupportedInput(
            "expected statistics of params, got none; pass stats=jc.observe(fn, params, batches), "
            "with the statistic that is needed"
        )
    for path, state in states.items():
        if not all(jnp.isfinite(x).all() for x in jax.tree.leaves(state)):
            raise UnsupportedInput(
                f"{named(path)}: expected finite statistics, got NaN or infinity; observe batches "
                "without NaN, and a function that does not overflow on them"
            )
    args = batch if isinstance(batch, tuple) else (batch,)
    new = dict(stats)
    scales = [s for s in symmetries(fn, params, *args) if s.kind == "scale"]
    # From the last to the first: what a weight writes is settled when its own scale is chosen.
    for symmetry in scales[::-1]:
        factor = jnp.ones(symmetry.size)
        for readers in _together(symmetry, params, new):
            channels, scale = choose(readers)
            factor = factor.at[channels].set(scale)
        params, new = apply(params, symmetry, factor), moved(new, symmetry, factor)
    return params, new


def _together(symmetry: Symmetry, params: Any, stats: Mapping[str, Any]) -> Iterator[list[Reader]]:
    """Readers by the channels that they share, each matrix of a stack by itself."""
    weights = dict(leaves(params))
    groups: list[tuple[set[int], list[Reader]]] = []
    for member in symmetry.readers:
        seen = stats.get(member.path)
        channels = None
        if seen is not None and seen.state is not None and seen.multiplied:
            channels = input_channels(member, seen)
        if channels is None:
            continue
        w = jnp.asarray(weights[member.path])
        free = [a for a in range(seen.leading - w.ndim, 0) if a not in seen.packed]
        lead = range(-w.ndim, seen.leading - w.ndim)
        w = w.transpose(*lead, *free, *seen.packed).reshape(
            *w.shape[: seen.leading], -1, channels.shape[-1]
        )
        for at in np.ndindex(channels.shape[:-1]):
            own = set(channels[at][channels[at] >= 0].tolist())
            state = jax.tree.map(lambda x, at=at: x[at], seen.state)
            reader = Reader(member.path, w[at], channels[at], state)
            near = [g for g in groups if g[0] & own]
            groups = [g for g in groups if not g[0] & own]
            if own:
                shared = own.union(*(channels for channels, _ in near))
                groups.append((shared, [*(r for _, rs in near for r in rs), reader]))
    return (readers for _, readers in groups)


def _check(symmetry: Symmetry, factor: jax.Array) -> None:
    n = symmetry.size
    expected = {"scale": (n,), "orthogonal": (n, n)}[symmetry.kind]
    if factor.shape != expected:
        raise UnsupportedInput(
            f"expected a factor of shape {expected} for {n} channels of kind {symmetry.kind}, got "
            f"{factor.shape}; pass one number for each channel, or a matrix to rotate them"
        )
    if isinstance(factor, jax.core.Tracer):
        return
    f = np.asarray(factor)
    good = (f > 0) & np.isfinite(f) if symmetry.kind == "scale" else np.isfinite(f)
    if not good.all():
        expected = {"scale": "positive finite scales", "orthogonal": "a matrix of finite numbers"}
        raise UnsupportedInput(
            f"expected {expected[symmetry.kind]}, got {f[~good][0]} among others; exponentials of "
            "free numbers are such scales, and Q of a QR decomposition is such a matrix"
        )
    off = 0.0 if symmetry.kind == "scale" else float(np.abs(f.T @ f - np.eye(n)).max())
    if off > ORTHOGONAL:
        raise UnsupportedInput(
            f"expected an orthogonal matrix R, got one whose R^T R is {off:.2g} off the identity; "
            "take Q of its QR decomposition, in float32"
        )


def _changed(
    params: Any,
    changes: Sequence[tuple[Member, jax.Array]],
    change: Callable[[jax.Array, Member, jax.Array], jax.Array],
) -> Any:
    """params with change(weight, member, factor) of every member in turn."""
    members = {m.path for m, _ in changes}
    if missing := members - {path for path, _ in leaves(params)}:
        raise UnsupportedInput(
            f"expected the params of the symmetry, got none at {', '.join(sorted(missing))}; pass "
            "the tree that symmetries saw"
        )

    def one(path, w):
        for member, factor in changes:
            w = change(jnp.asarray(w), member, factor) if member.path == path else w
        return w

    return map_where(one, params, lambda path, _: path in members)


def _factors(channels: np.ndarray, factor: jax.Array) -> jax.Array:
    """The factor of each index, 1 where it has no channel."""
    return jnp.where(channels >= 0, factor[np.maximum(channels, 0)], 1.0)


def _scaled(w: jax.Array, member: Member, factor: jax.Array) -> jax.Array:
    wide = [w.shape[a] if a in member.axes else 1 for a in range(-w.ndim, 0)]
    return (w * _factors(member.channels, factor).reshape(wide)).astype(w.dtype)


def _vectors(channels: np.ndarray) -> np.ndarray:
    """i64[vectors, size]: where the channels of each vector stand in flat `channels`."""
    flat = channels.reshape(-1)
    order = np.argsort(flat, kind="stable")[(flat < 0).sum() :]
    return order.reshape(int(flat.max()) + 1, -1).T


def _rotated(w: jax.Array, member: Member, turn: jax.Array) -> jax.Array:
    axes, count = member.axes, len(member.axes)
    moved_axes = jnp.moveaxis(w, axes, range(-count, 0))
    flat = moved_axes.reshape(*moved_axes.shape[:-count], -1)
    at = _vectors(member.channels)
    new = jnp.matmul(flat[..., at].astype(jnp.float32), turn, precision="highest")
    flat = flat.at[..., at].set(new.astype(w.dtype))
    return jnp.moveaxis(flat.reshape(moved_axes.shape), range(-count, 0), axes)


def _turn(channels: np.ndarray, turn: jax.Array) -> jax.Array:
    """The rotation of all inputs [*leading, in, in], 1 on the diagonal of those without channel."""
    *lead, size = channels.shape
    found = jnp.broadcast_to(jnp.eye(size), (int(np.prod(lead)), size, size))
    layer, place = np.divmod(_vectors(channels), size)
    found = found.at[layer[:, :1, None], place[:, :, None], place[:, None, :]].set(turn)
    return found.reshape(*lead, size, size)


def _scaled_state(state: Any, factor: jax.Array) -> Any:
    """What is known of x * factor; None in place of what is not."""
    moves = {
        "moment": lambda x: x * factor[..., :, None] * factor[..., None, :],
        "max": lambda x: x * factor,
        "sum": lambda x: x * factor,
        "count": lambda x: x,
    }

    def each(path, x):
        move = moves.get(getattr(path[-1], "key", None)) if path else None
        return None if move is None else move(x)

    return jax.tree_util.tree_map_with_path(each, state)
