"""Compressed weights over several devices: shard_map inside and outside of lift, and shardings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxcomp as jc
from tests.lift.cases import QUICK, check_law, dense, normal, scaled

X = normal(4, 64)
MESH = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def _packed(format, axes=-2, shape=(64, 32)):
    return jax.jit(jc.formats.quantize, static_argnums=(1, 2))(normal(*shape), format, axes)


def _columns(w, x):
    return x @ w


def _rows(w, x):
    return lax.psum(x @ w, "model")


GROUPS = jc.formats.INT4._replace(group=16, tile=16)
INTO_COLUMNS = P(None, "model"), P("data"), P("data", "model"), _columns
OF_ROWS = P("model"), P("data", "model"), P("data"), _rows
OTHER_WAY = P(None, "model"), P("data", "model"), P("data"), lambda w, x: _rows(w.T, x)
BOTH = P(None, ("data", "model")), P(), P(None, ("data", "model")), _columns
CASES = {  # the weight, its spec, that of x, that of the result, what runs
    "columns": (_packed(GROUPS), *INTO_COLUMNS),
    "columns, per channel": (_packed(jc.formats.INT8), *INTO_COLUMNS),
    "over two axes": (_packed(GROUPS), *BOTH),
    "rows": (_packed(GROUPS), *OF_ROWS),
    "rows, per channel": (_packed(jc.formats.INT8), *OF_ROWS),
    "rows of [out, in]": (_packed(GROUPS, -1, (32, 64)), *OTHER_WAY),
    "rows with zeros": (_packed(jc.formats.UINT4._replace(group=16)), *OF_ROWS),
    "whole": (_packed(GROUPS), P(), P("data"), P("data"), _columns),
}


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_shard_map_is_walked_into(name, check_vma):
    w, spec, x_spec, out_spec, fn = CASES[name]
    over = jax.shard_map(
        fn, mesh=MESH, in_specs=(spec, x_spec), out_specs=out_spec, check_vma=check_vma
    )
    found = check_law(over, w, X, tolerance=1e-4)
    assert [row.operation for row in found.rows] == ["dot_general"]
    assert found.rows[0].nbytes == w.nbytes


def test_layers_and_heads_are_cut_and_scanned():
    def fn(ws, x):
        def layers(ws, x):
            def layer(x, w):
                y = x @ w.reshape(8, -1)
                return lax.all_gather(jnp.tanh(y), "model", axis=1, tiled=True), None

            # Every device gathers the same, which only its values show.
            return lax.scan(layer, x, ws)[0][None]

        heads = ws.reshape(3, 8, 4, 2)
        specs = {"in_specs": (P(None, None, "model"), P()), "out_specs": P("model")}
        return jax.shard_map(layers, mesh=MESH, check_vma=False, **specs)(heads, x)

    check_law(fn, scaled(3, 8, 8), normal(4, 8))


BAD = {
    "half groups": (_packed(jc.formats.INT4._replace(group=32)), "whole groups"),
    "filled up": (_packed(GROUPS._replace(pad=True), shape=(56, 32)), "whole groups"),
    "two axes": (_packed(GROUPS, (-3, -2), (4, 16, 32)), "several packed"),
    "another leaf": (scaled(64, 32), "whole groups"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_packed_axis_that_cannot_be_cut_is_made_dense_first(name):
    w, why = BAD[name]
    shape = (w.shape[0], P("data", "model"))

    def fn(w, x):
        def part(w, x):
            return _rows(w.reshape(-1, 32), x)

        specs = (P("model"), shape[1])
        return jax.shard_map(part, mesh=MESH, in_specs=specs, out_specs=P("data"))(w, x)

    x = normal(4, int(np.prod(w.shape[:-1])))
    found = check_law(fn, w, x, materialised=[""], tolerance=1e-4)
    assert why in found.rows[0].why


def test_lift_works_inside_shard_map():
    w = CASES["columns"][0]

    def local(w, x):
        return jc.lift(lambda w, x: lax.psum(jnp.tanh(x @ w).sum(0), "data"), strict=True)(w, x)

    specs = jax.tree.map(lambda _: P(None, "model"), w)
    over = jax.shard_map(local, mesh=MESH, in_specs=(specs, P("data")), out_specs=P("model"))
    got = jax.jit(over, compiler_options=QUICK)(w, X)
    np.testing.assert_allclose(got, np.tanh(np.asarray(X @ w.dense())).sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", [P(None, "model"), P("model"), P("data", "model")])
def test_sharded_leaves_stay_so_under_jit(spec):
    w = jax.device_put(_packed(GROUPS), NamedSharding(MESH, spec))
    x = jax.device_put(X, NamedSharding(MESH, P("data")))
    lifted = jc.lift(lambda w, x: (x @ w, w), strict=True)
    expected = X @ dense(w)
    for run in (lifted, jax.jit(lifted, donate_argnums=0)):
        out, kept = run(w, x)
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)
        assert kept.codes.sharding.spec == spec and not kept.codes.is_fully_replicated
    assert w.codes.is_deleted() and not kept.codes.is_deleted()


def test_observing_parts_of_a_weight_is_refused_with_statistics_only():
    specs = {"in_specs": (P(None, "model"), P("data")), "out_specs": P("data", "model")}
    fn = jax.shard_map(lambda w, x: x @ w, mesh=MESH, **specs)
    with pytest.raises(jc.UnsupportedInput, match="without shard_map"):
        jc.observe(lambda p, x: fn(p["w"], x), {"w": normal(64, 32)}, [X])
    seen = jc.observe(lambda p, x: fn(p["w"], x), {"w": normal(64, 32)}, [X], statistic=None)
    assert seen["w"].packed == (-2,)


def test_on_an_explicit_mesh_results_lie_as_the_function_says():
    def fn(w, table, x, t):
        return jnp.tanh(x @ w), table.at[t].get(out_sharding=P("data")) * 2, w.T + 1

    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)

    def put(x, *spec):
        return jax.device_put(x, NamedSharding(mesh, P(*spec)))

    w, table = put(_packed(jc.formats.INT8), None, "model"), put(_packed(jc.formats.INT8, -1))
    x, t = put(X, "data"), put(jnp.array([[3, 1], [0, 63]]), "data")
    with jax.set_mesh(mesh):
        got = jax.jit(jc.lift(fn))(w, table, x, t)
        plain = put(w.dense(), None, "model"), put(table.dense())
        expected = jax.jit(fn)(*plain, x, t)
        for a, b in zip(got[:2], expected[:2], strict=True):
            assert jax.typeof(a).sharding.spec == jax.typeof(b).sharding.spec
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("format", [GROUPS, jc.formats.INT8])
def test_a_packed_axis_cut_outside_of_lift_is_named(format):
    leaf = _packed(format)
    params = {"w": leaf}, {"w": jc.formats.Transformed(leaf, activation="int8")}
    for each in params:
        spec = jax.tree.map(lambda x: P("model") if x.shape[0] > 1 else P(), each)
        over = jax.shard_map(
            jc.lift(lambda p, x: lax.psum(x @ p["w"], "model")),
            mesh=MESH,
            in_specs=(spec, P(None, "model")),
            out_specs=P(),
        )
        with pytest.raises(
            jc.UnsupportedInput,
            match=r"w: .* the 64 codes of packed axes \(-2,\), got 16: .* inside",
        ):
            jax.eval_shape(over, each, X)
