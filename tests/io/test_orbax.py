"""Orbax: compressed leaves are ordinary pytrees in its checkpoints, and work when restored."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxcomp as jc

F = jc.formats
rng = np.random.default_rng(0)


def test_trees_with_leaves_are_saved_and_restored(tmp_path):
    w = rng.normal(size=(64, 8)).astype(np.float32)
    tree = {
        "four": F.quantize(w, F.UINT4_G32),
        "nv": F.quantize(w, F.NVFP4),
        "bias": jnp.ones(8),
    }
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "step", tree)
        checkpointer.wait_until_finished()
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
        found = checkpointer.restore(tmp_path / "step", shapes)
        # Into a mesh: each part comes to where it belongs.
        mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
        four = {"four": F.shardings(tree["four"], P(None, "model"), mesh)}
        wanted = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            {"four": tree["four"]},
            four,
        )
        sharded = checkpointer.restore(tmp_path / "step", {**shapes, **wanted})
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(tree), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    x = rng.normal(size=(3, 64)).astype(np.float32)
    for leaf in (found["four"], sharded["four"]):
        np.testing.assert_allclose(
            jax.jit(F.dot)(x, leaf), jax.jit(F.dot)(x, tree["four"]), atol=1e-5
        )
    assert sharded["four"].codes.addressable_shards[0].data.shape == (32, 1)
