"""Sharded parameters, whole on every device for one step, sent compressed.

    whole = D(C(x_1)), ..., D(C(x_N)) along the axis that is cut

With quantized(INT8) half the bytes of bfloat16: ZeRO++, Wang et al., 2023, section 3.1 (qwZ). Each
device keeps its shard as it is and updates that; all compute with what was sent, its own shard too,
so that all have the same.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcomp.base import Compressor
from jaxcomp.optim.exchange import gather
from jaxcomp.optim.reduce_scatter import sharded_axes


def all_gather(compressor: Compressor, params: Any, axis_name: str, specs: Any) -> Any:
    """params: shards, in shard_map or vmap; specs as for reduce_scatter; leaves without the axis
    stay. compressor: one that keeps nothing and draws nothing, as quantized or identity.

    Not for gradients to go through: take them with respect to what comes out. What is not finite in
    a shard, all see.
    """
    leaves, structure = jax.tree.flatten(params)
    axes = sharded_axes(specs, params, axis_name)

    def whole(x, axis):
        if axis is None:
            return x
        wire, _ = compressor.compress(jnp.zeros(2, jnp.uint32), x, compressor.init(x))
        shards = jax.vmap(compressor.decompress)(gather(wire, axis_name))
        return jnp.concatenate(list(shards), axis)

    return structure.unflatten([whole(x, axis) for x, axis in zip(leaves, axes, strict=True)])
