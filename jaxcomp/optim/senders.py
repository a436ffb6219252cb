"""Senders on devices: what of a state is each sender's own, and a step that runs on all of them.

Most of a state is the same everywhere; memories of feedback are not. Those stand in PerSender, with
an axis of senders in front outside of shard_map and without it inside:

    state = optim.init(transform, params, mesh, "data")
    step = jax.jit(optim.on_senders(step, mesh, "data"), donate_argnums=(0, 1))
    params, state, loss = step(params, state, batch)       loss [senders]

With a mesh of one device, senders are lanes of a vmap: the same run, to rounding, on less.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcomp.base import Rounds, UnsupportedInput
from jaxcomp.formats.leaf import leaf_class


@leaf_class
class PerSender:
    """value: a pytree of arrays that each sender has for itself."""

    value: Any


@leaf_class
class Shard:
    """value: one sender's part of vectors that are cut among all, along the last axis."""

    value: Any


@leaf_class
class Total:
    """value: one sender's part of integers that are counted over all senders together."""

    value: Any


def specs(state: Any, axis_name: str | tuple[str, ...]) -> Any:
    """PartitionSpecs of a state: along the axis what is each sender's own, else on every device."""

    def spec(leaf):
        return PartitionSpec(axis_name) if is_own(leaf) else PartitionSpec()

    return jax.tree.map(spec, state, is_leaf=is_own)


def init(
    transform: optax.GradientTransformation | Rounds,
    params: Any,
    mesh: Mesh,
    axis_name: str | tuple[str, ...],
    *,
    senders: int | None = None,
) -> Any:
    """transform.init(params) for all senders of the axis, each sender's own part on its device.

    axis_name: or several, outer ones first. senders: their number along one axis where the mesh has
    one device; else it is that of the devices.
    """
    places = jax.tree.map(
        lambda leaf: leaf.sharding, shapes(transform, params, mesh, axis_name, senders=senders)
    )
    every = _every(transform, _counts(mesh, axis_name, senders))
    return jax.jit(every, out_shardings=places)(params)


def shapes(
    transform: optax.GradientTransformation | Rounds,
    params: Any,
    mesh: Mesh,
    axis_name: str | tuple[str, ...],
    *,
    senders: int | None = None,
) -> Any:
    """What init makes, as jax.ShapeDtypeStruct with shardings: what a checkpoint is read into."""
    found = jax.eval_shape(_every(transform, _counts(mesh, axis_name, senders)), params)

    def place(spec, leaf):
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), leaf
        )

    return jax.tree.map(
        place,
        specs(found, axis_name),
        found,
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )


def on_senders(
    step: Callable[..., tuple[Any, Any, Any]],
    mesh: Mesh,
    axis_name: str | tuple[str, ...],
) -> Callable[..., tuple[Any, Any, Any]]:
    """step(params, state, *batch) -> (params, state, aux) of one sender, for all of them.

    params are the same on every device; each array of a batch is cut along its first axis. What
    aux has gets an axis of senders in front. Gradients that step takes of params are the sender's
    own: nothing is summed but by the exchange. Collectives of step name the axis.
    """

    count = math.prod(_counts(mesh, axis_name, None).values())

    def run(params, state, *batch):
        held = {len(x) for x in jax.tree.leaves(_own(state))} or {count}
        if len(held) == 1 and count == 1 and held != {1}:
            return _lanes(step, axis_name, held.pop())(params, state, *batch)
        if held != {count}:
            raise UnsupportedInput(
                f"expected a state of {count} senders, as the mesh has devices along {axis_name!r},"
                f" or a mesh of one device, got {sorted(held)}; see optim.init and optim.across"
            )

        def body(params, state, *batch):
            params, state, aux = step(params, _inside(state), *batch)
            return params, _outside(state), jax.tree.map(lambda x: jnp.asarray(x)[None], aux)

        places = specs(state, axis_name)
        rows = PartitionSpec(axis_name)
        return jax.shard_map(
            body,
            mesh=mesh,
            in_specs=(PartitionSpec(), places, *[rows] * len(batch)),
            out_specs=(PartitionSpec(), places, rows),
            # What is the same on all devices is so by an all-gather, which the check cannot see;
            # and with it, gradients of params would be summed before the exchange.
            check_vma=False,
        )(params, state, *batch)

    return run


def _lanes(step, axis_name, senders):
    def run(params, state, *batch):
        axes = jax.tree.map(lambda leaf: 0 if is_own(leaf) else None, state, is_leaf=is_own)
        rows = jax.tree.map(lambda x: x.reshape(senders, -1, *x.shape[1:]), batch)
        lanes = jax.vmap(
            step,
            in_axes=(None, axes, *[0] * len(batch)),
            out_axes=(None, axes, 0),
            axis_name=axis_name,
        )
        try:
            return lanes(params, state, *rows)
        except ValueError as error:
            if "out_axes" not in str(error) or isinstance(error, UnsupportedInput):
                raise
            raise UnsupportedInput(
                "expected a step whose params, and state but for PerSender, are the same for all "
                "senders, got some that are each sender's own; exchange gradients, and give a "
                f"compressor alone its axis: error_feedback(top_k(), axis_name={axis_name!r})"
            ) from error

    return run


def _every(transform, counts):
    """params -> the state of all senders."""

    def every(params):
        def one():
            return transform.init(params)

        for name, count in reversed(counts.items()):
            one = functools.partial(_repeated, one, name, count)
        lead = len(counts)

        def whole(leaf):
            if is_own(leaf):
                return jax.tree.map(lambda x: x.reshape(-1, *x.shape[lead:]), leaf)
            return leaf[(0,) * lead]

        return jax.tree.map(whole, one(), is_leaf=is_own)

    return every


def _repeated(function, name, count):
    return jax.vmap(lambda _: function(), axis_name=name)(jnp.arange(count))


def _counts(mesh: Mesh, axis_name: str | tuple[str, ...], senders: int | None) -> dict[str, int]:
    names = (axis_name,) if isinstance(axis_name, str) else tuple(axis_name)
    if not names or not set(names) <= set(mesh.shape):
        raise UnsupportedInput(
            f"expected axes of the mesh, got {axis_name!r}; it has {tuple(mesh.shape)}"
        )
    counts = {name: mesh.shape[name] for name in names}
    count = math.prod(counts.values())
    if senders is None or senders == count:
        return counts
    if count != 1 or senders < 1 or len(names) > 1:
        raise UnsupportedInput(
            f"expected senders, the size {count} of the axis or any number with a mesh of one "
            f"device, got {senders}"
        )
    return {names[0]: senders}


def is_own(x: Any) -> bool:
    """For jax.tree functions: whether x is a sender's own part of a state."""
    return isinstance(x, PerSender)


def _own(state: Any) -> list[PerSender]:
    return [leaf for leaf in jax.tree.leaves(state, is_leaf=is_own) if is_own(leaf)]


def _inside(state: Any) -> Any:
    return _each(lambda x: x[0], state)


def _outside(state: Any) -> Any:
    return _each(lambda x: x[None], state)


def _each(function: Callable[[jax.Array], jax.Array], state: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.tree.map(function, leaf) if is_own(leaf) else leaf,
        state,
        is_leaf=is_own,
    )
