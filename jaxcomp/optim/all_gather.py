"""Sharded parameters, whole on every device for one step, sent compressed.

    whole = D(C(x_1)), ..., D(C(x_N)) along the axis that is cut

With quantized(INT8) half the bytes of bfloat16: ZeRO++, Wang et al., 2023, section 3.1 (qwZ). Each
device keeps its shard as it is and updates that; all compute with what was sent, its own shard too,
so that all have the same.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcomp.base import Compressor, UnsupportedInput
from jaxcomp.optim.exchange import check_axis, gather
from jaxcomp.optim.reduce_scatter import sharded_axes


def all_gather(compressor: Compressor, params: Any, axis_name: str, specs: Any) -> Any:
    """params: shards, in shard_map or vmap; specs as for reduce_scatter; leaves without the axis
    stay. compressor: one that keeps nothing and draws nothing, as quantized or identity; others
    are UnsupportedInput.

    Not for gradients to go through: take them with respect to what comes out. What is not finite in
    a shard, all see.
    """
    check_axis(axis_name)
    leaves, structure = jax.tree.flatten(params)
    axes = sharded_axes(specs, params, axis_name)

    def whole(x, axis):
        if axis is None:
            return x
        _check(compressor, x)
        wire, _ = compressor.compress(jnp.zeros(2, jnp.uint32), x, compressor.init(x))
        shards = jax.vmap(compressor.decompress)(gather(wire, axis_name))
        return jnp.concatenate(list(shards), axis)

    return structure.unflatten([whole(x, axis) for x, axis in zip(leaves, axes, strict=True)])


def _check(compressor, x):
    """Traces it: whether anything is made of the key, and whether a state is kept."""
    x = jax.ShapeDtypeStruct(x.shape, x.dtype)
    state = jax.eval_shape(compressor.init, x)
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    traced = jax.make_jaxpr(compressor.compress)(key, x, state).jaxpr
    used = [*traced.outvars, *(v for equation in traced.eqns for v in equation.invars)]
    if jax.tree.leaves(state) or any(v is traced.invars[0] for v in used):
        raise UnsupportedInput(
            f"expected a compressor that keeps and draws nothing, got {compressor.name}: there is "
            "no state and no key here, and it would draw alike at every step; quantized(), say"
        )
