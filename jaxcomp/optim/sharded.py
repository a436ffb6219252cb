"""Steps on sharded parameters: every device has its shards, and a state of its own for them.

    state = optim.init_sharded(transform, params, mesh, specs)
    step = jax.jit(optim.on_sharded(step, mesh, specs), donate_argnums=(0, 1))
    params, state, loss = step(params, state, batch)       loss [devices]

What of a state belongs to which shard, and what to which sender, no shape tells; so all of it has
an axis of devices in front, outside of shard_map. It is as large on a device as it has to be; its
checkpoint holds what devices have alike more than once, and report adds up the bytes of all. See
reduce_scatter for what a step is made of, senders for parameters that are whole on every device.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from jaxcomp.base import UnsupportedInput


def init_sharded(
    transform: optax.GradientTransformation, params: Any, mesh: Mesh | AbstractMesh, specs: Any
) -> Any:
    """transform.init of its shards, on each device of the mesh: [devices, ...].

    params: whole arrays, or sharded ones; specs: their PartitionSpecs, one may be of a subtree.
    """

    def body(params):
        return jax.tree.map(lambda x: jnp.asarray(x)[None], transform.init(params))

    every = PartitionSpec(mesh.axis_names)
    run = jax.shard_map(body, mesh=mesh, in_specs=(specs,), out_specs=every, check_vma=False)
    return jax.jit(run)(params)


def on_sharded(
    step: Callable[..., tuple[Any, Any, Any]], mesh: Mesh | AbstractMesh, specs: Any
) -> Callable[..., tuple[Any, Any, Any]]:
    """step(params, state, *batch) -> (params, state, aux) of one device, for all of them.

    Its params are shards; each array of a batch is cut along its first axis into as many parts as
    the mesh has devices. What aux has gets an axis of devices in front.
    """
    every = PartitionSpec(mesh.axis_names)

    def body(params, state, *batch):
        new, state, aux = step(params, jax.tree.map(lambda x: x[0], state), *batch)
        check_shapes(new, params)
        return new, *jax.tree.map(lambda x: jnp.asarray(x)[None], (state, aux))

    def run(params, state, *batch):
        return jax.shard_map(
            body,
            mesh=mesh,
            in_specs=(specs, every, *[every] * len(batch)),
            out_specs=(specs, every, every),
            check_vma=False,  # as in senders.on_senders
        )(params, state, *batch)

    return run


def check_shapes(found: Any, like: Any) -> None:
    """UnsupportedInput where arrays, gradients say, have other shapes than what they are of.

    like: a pytree with as many arrays, or for each of them several of one shape.
    """
    found, like = jax.tree.leaves(found), jax.tree.leaves(like)
    each = len(like) // max(1, len(found))
    for x, y in zip(found, like[:: max(1, each)], strict=True):
        if jnp.shape(x) != jnp.shape(y):
            raise UnsupportedInput(
                f"expected an array of the shape {jnp.shape(y)} of its parameter, got "
                f"{jnp.shape(x)}; where that is a shard, put reduce_scatter before this in the "
                "chain: all methods behind it see shards"
            )
