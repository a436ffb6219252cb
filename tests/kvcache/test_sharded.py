"""Caches over a mesh: each device has its heads, and what loops over tokens keeps its type."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

import jaxcomp as jc

K = jc.kvcache
CACHES = {
    "window": K.quantized(jc.formats.INT8, 16, over=4),
    "ring": K.staircase(16, bits=(8, 4), chunks=(1,), group=4),
    "factors": K.gear(16, bits=4, group=8, rank=1),
    "saliency": K.zipcache(16, group=8, window=0),
    "scores": K.evict(K.h2o(), 8, recent=2),
    "pool": K.evict(K.snapkv(window=4), 8, sinks=1, recent=2, slots=K.ragged()),
    "merged": K.ems(8, recent=2),
}


@pytest.mark.parametrize("name", CACHES)
def test_types_say_which_values_differ_between_devices(name):
    """shard_map's own check, which refuses a loop or a branch that forgets it. Nothing is run."""
    cache = CACHES[name]
    mesh = jax.make_mesh((2,), ("heads",), axis_types=(jax.sharding.AxisType.Auto,))
    split = P(None, None, "heads")

    def run(q, k, v):
        state = cache.init(1, k.shape[2], 16)
        state = cache.append(state, k[:, :3], v[:, :3], queries=q[:, :3])
        return K.attention(cache, state, q[:, :3], k[:, :3], v[:, :3])[0]

    sharded = jax.shard_map(run, mesh=mesh, in_specs=(split,) * 3, out_specs=split)
    q, k = (jax.ShapeDtypeStruct((1, 12, heads, 16), jnp.float32) for heads in (4, 2))
    assert jax.eval_shape(sharded, q, k, k).shape == (1, 3, 4, 16)
