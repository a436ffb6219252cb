"""Shardings: parts lie as the dense weight would, and eight devices give the same products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput

F = jc.formats
rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


@pytest.mark.parametrize(
    "format,shape,axes,spec,codes,scales",
    [
        (F.INT4_G32, (256, 16), -2, P("model", None), P("model", None), P("model", None)),
        (F.INT4_G32, (256, 16), -2, P(None, "model"), P(None, "model"), P(None, "model")),
        (F.INT8, (16, 256), -1, P("data", "model"), P("data", "model"), P("data", None)),
        (F.UINT4_G32, (8, 32, 16), (0, 1), P("model"), P("model", None), P("model", None)),
        (F.INT4_G128, (256, 16), -2, P("model", None), P("model", None), P(None, None)),
        (
            F.INT8,
            (2, 64, 16),
            1,
            P("data", None, "model"),
            P("data", None, "model"),
            P("data", None, "model"),
        ),
    ],
    ids=str,
)
def test_parts_lie_as_the_weight(mesh, format, shape, axes, spec, codes, scales):
    leaf = F.quantize(rng.normal(size=shape).astype(np.float32), format, axes)
    wanted = F.shardings(leaf, spec, mesh)
    assert wanted.codes.spec == codes and wanted.scales.spec == scales
    placed = jax.device_put(leaf, wanted)
    cut = np.prod([mesh.shape[name] for name in spec if name])
    assert placed.codes.addressable_shards[0].data.size == leaf.codes.size // cut
    sizes = [size for _, size in leaf.packed]
    x = rng.normal(size=(3, *sizes)).astype(np.float32)
    found = jax.jit(F.dot, in_shardings=(None, wanted))(x, placed)
    np.testing.assert_allclose(found, jax.jit(F.dot)(x, leaf), atol=1e-4)


def test_scales_that_are_leaves_and_specs_without_a_mesh(mesh):
    leaf = F.quantize(rng.normal(size=(128, 16)).astype(np.float32), F.NVFP4)
    spec = F.shardings(leaf, P("model", "data"))
    assert spec.codes == spec.scales.codes == P("model", "data")
    assert spec.scales.scales == P(None, None)
    few = F.quantize(np.ones((96, 16), np.float32), F.NVFP4)  # 6 scales for 4 devices
    found = F.shardings(few, P("model"), mesh)
    assert found.codes.spec == P("model", None) and found.scales.codes.spec == P(None, None)
    placed = jax.device_put(leaf, F.shardings(leaf, P("model", "data"), mesh))
    np.testing.assert_array_equal(jax.jit(F.dense)(placed), leaf.dense())


def test_tables_are_everywhere(mesh):
    codes = jnp.asarray(rng.integers(0, 16, (16, 32)))
    leaf = F.codebook(codes, jnp.asarray(rng.normal(size=(16, 4)), jnp.float32), size=128)
    wanted = F.shardings(leaf, P("data", "model"), mesh)
    assert wanted.codes.spec == P("data", "model") and wanted.table.spec == P(None, None)
    x = rng.normal(size=(3, 128)).astype(np.float32)
    found = jax.jit(F.dot)(x, jax.device_put(leaf, wanted))
    np.testing.assert_allclose(found, jax.jit(F.dot)(x, leaf), atol=1e-4)
    assert isinstance(wanted.codes, NamedSharding)


def test_what_cannot_be_cut_is_named(mesh):
    leaf = F.quantize(np.ones((8, 32, 16), np.float32), F.INT4_G32, (0, 1))
    with pytest.raises(UnsupportedInput, match="only -3"):
        F.shardings(leaf, P(None, "model"), mesh)
    with pytest.raises(UnsupportedInput, match="at most 3 axes"):
        F.shardings(leaf, P(None, None, None, "model"), mesh)
    odd = F.quantize(np.ones((6, 4), np.float32), F.INT8)
    with pytest.raises(UnsupportedInput, match="multiple of 4 devices"):
        F.shardings(odd, P("model"), mesh)
    rows = F.sparse_rows(jnp.eye(16))
    with pytest.raises(UnsupportedInput, match="shard its free axes"):
        F.shardings(rows, P(None, "model"), mesh)
