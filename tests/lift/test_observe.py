"""What multiplies each weight, in every layout, is what NumPy says; memory is one batch."""

import chex
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxcomp as jc
from jaxcomp.lift.observe import Use
from jaxcomp.lift.statistics import both, max_magnitude, mean_magnitude, second_moment


def _normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


X = _normal(6, 8)
BUTTERFLY = _normal(6, 8, seed=1)


@jax.custom_vjp
def _own_rule(w, x):
    return x @ w


_own_rule.defvjp(lambda w, x: (x @ w, (w, x)), lambda kept, g: (kept[1].T @ g, g @ kept[0].T))


def _windows(x, size):  # [b, h, w, c] -> [rows, size * size * c], in the order of an HWIO kernel
    b, h, w, c = x.shape
    found = [
        x[n, i : i + size, j : j + size].reshape(-1)
        for n in range(b)
        for i in range(h - size + 1)
        for j in range(w - size + 1)
    ]
    return np.stack(found)


def _conv(w, x, kernel="HWIO"):
    return lax.conv_general_dilated(
        x, w, (1, 1), "VALID", dimension_numbers=("NHWC", kernel, "NHWC")
    )


def _scan(w, x):
    return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]


def _layers(w, x, order=None):  # the inputs of tanh layers
    found = np.zeros((len(w), *x.shape), np.float32)
    for i in range(len(w)) if order is None else order:
        found[i] = x
        x = np.tanh(x @ w[i])
    return found


STACK = _normal(3, 8, 8)
PICTURE = _normal(2, 5, 5, 3)
EXPERTS = _normal(4, 5, 8)  # [experts, capacity, in]
ONE = np.stack([X[:, :1]] * 2)
RAGGED = np.asarray([2, 0, 4])
IN_GROUPS = np.stack([np.where([[n == e] for n in (0, 0, 2, 2, 2, 2)], X, 0) for e in range(3)])

# name: (fn(w, x), w, x, packed axes, vectors of each matrix [*leading, rows, in])
CASES = {
    "flax": (lambda w, x: x @ w, _normal(8, 5), X, (-2,), X),
    "torch": (lambda w, x: x @ w.T, _normal(5, 8), X, (-1,), X),
    "weight first": (lambda w, x: w @ x.T, _normal(5, 8), X, (-1,), X),
    "bfloat16": (
        lambda w, x: x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16),
        _normal(8, 5),
        X,
        (-2,),
        X.astype(jnp.bfloat16),
    ),
    "one input": (lambda w, x: [x[:, :1] @ v.T for v in w], _normal(2, 5, 1), X, (-1,), ONE),
    "integers": (lambda w, x: jnp.rint(x).astype(int) @ w, _normal(8, 5), X, (-2,), np.rint(X)),
    "heads out": (lambda w, x: jnp.einsum("td,dhk->thk", x, w), _normal(8, 2, 3), X, (-3,), X),
    "heads in": (
        lambda w, x: jnp.einsum("thk,hkd->td", x.reshape(6, 2, 4), w),
        _normal(2, 4, 5),
        X,
        (-3, -2),
        X,
    ),
    "flattened": (lambda w, x: x @ w.reshape(8, 5), _normal(2, 4, 5), X, (-3, -2), X),
    "convolution": (_conv, _normal(2, 2, 3, 4), PICTURE, (-4, -3, -2), _windows(PICTURE, 2)),
    "convolution OHWI": (
        lambda w, x: _conv(w, x, "OHWI"),
        _normal(4, 2, 2, 3),
        PICTURE,
        (-3, -2, -1),
        _windows(PICTURE, 2),
    ),
    "scan": (_scan, STACK, X, (-2,), _layers(STACK, X)),
    "reversed scan": (
        lambda w, x: lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w, reverse=True)[0],
        STACK,
        X,
        (-2,),
        _layers(STACK, X, (2, 1, 0)),
    ),
    "part of a scan": (
        lambda w, x: _scan(w[1:], x),
        STACK,
        X,
        (-2,),
        np.stack([0 * X, *_layers(STACK[1:], X)]),
    ),
    "unrolled": (
        lambda w, x: jnp.tanh(jnp.tanh(x @ w[0]) @ w[1]) @ w[-1],
        STACK,
        X,
        (-2,),
        _layers(STACK, X),
    ),
    "indexed in a loop": (
        lambda w, x: lax.fori_loop(0, 3, lambda i, x: jnp.tanh(x @ w[i]), x),
        STACK,
        X,
        (-2,),
        _layers(STACK, X),
    ),
    "while": (
        lambda w, x: lax.while_loop(
            lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.tanh(s[1] @ w[s[0]])), (0, x)
        )[1],
        STACK,
        X,
        (-2,),
        _layers(STACK, X),
    ),
    "cond": (
        lambda w, x: lax.cond(x[0, 0] > 9, lambda: (2 * x) @ w, lambda: (3 * x) @ w),
        _normal(8, 5),
        X,
        (-2,),
        3 * X,
    ),
    "remat": (jax.checkpoint(lambda w, x: x @ w), _normal(8, 5), X, (-2,), X),
    "scan of remat": (
        lambda w, x: lax.scan(
            jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None)),
            x,
            w,
        )[0],
        STACK,
        X,
        (-2,),
        _layers(STACK, X),
    ),
    "jit": (jax.jit(lambda w, x: x @ w), _normal(8, 5), X, (-2,), X),
    "own gradient": (_own_rule, _normal(8, 5), X, (-2,), X),
    "vmapped": (
        lambda w, x: jax.vmap(lambda x: x @ w)(x.reshape(2, 3, 8)),
        _normal(8, 5),
        X,
        (-2,),
        X,
    ),
    "experts": (
        lambda w, x: jnp.einsum("ecd,edf->ecf", x, w),
        _normal(4, 8, 5),
        EXPERTS,
        (-2,),
        EXPERTS,
    ),
    "one input, many matrices": (
        lambda w, x: lax.scan(lambda c, w: (c, x @ w), 0, w)[1] + jnp.einsum("td,ldf->ltf", x, w),
        _normal(3, 8, 5),
        X,
        (-2,),
        np.stack([np.concatenate([X, X])] * 3),
    ),
    "ragged": (
        lambda w, x: lax.ragged_dot(x, w, jnp.asarray(RAGGED)),
        _normal(3, 8, 5),
        X,
        (-2,),
        IN_GROUPS,
    ),
    "split outputs": (
        lambda w, x: [(k * x) @ p for k, p in enumerate(jnp.split(w, 3, 1), 1)],
        _normal(8, 6),
        X,
        (-2,),
        np.concatenate([X, 2 * X, 3 * X]),
    ),
    "twice, and once another way": (
        lambda w, x: x @ jnp.tanh(x @ w).T @ (x @ w) @ w.T,
        _normal(8, 8),
        X,
        (-2,),
        np.concatenate([X, X]),
    ),
    "tied embedding": (
        lambda w, x: jnp.tanh(w[jnp.arange(6)]) @ w.T,
        _normal(9, 8),
        X,
        (-1,),
        None,
    ),
}
CASES["tied embedding"] = (*CASES["tied embedding"][:4], np.tanh(CASES["tied embedding"][1][:6]))


@pytest.mark.parametrize("name", CASES)
def test_statistics_of_every_layout_are_those_of_numpy(name):
    fn, w, x, packed, vectors = CASES[name]
    everything = both(second_moment, mean_magnitude, max_magnitude)
    seen = jc.observe(lambda p, x: fn(p["w"], x), {"w": w}, [x, x], statistic=everything)["w"]
    v = np.asarray(vectors, np.float32)
    assert (seen.packed, seen.leading, seen.shape) == (packed, v.ndim - 2, w.shape)
    moment, mean, most = (
        seen.state[s.name] for s in (second_moment, mean_magnitude, max_magnitude)
    )
    np.testing.assert_allclose(moment["moment"], 2 * v.swapaxes(-1, -2) @ v, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mean["sum"], 2 * np.abs(v).sum(-2), rtol=1e-5)
    np.testing.assert_allclose(most["max"], np.abs(v).max(-2), rtol=1e-6)
    for state in (moment, mean):
        np.testing.assert_array_equal(state["count"], 2 * (v != 0).any(-1).sum(-1))


def _two_layers(p, x):
    return jnp.tanh(x @ p["a"]) @ p["b"]


PARAMS = {"a": _normal(8, 16), "b": _normal(16, 4)}


def _moments(seen):
    return {path: one.state["moment"] for path, one in seen.items()}


def test_every_operation_is_recorded_and_what_is_no_product_is_not_watched():
    def fn(p, x):
        changed = (2 * p["changed"]).T
        return p["rows"][jnp.arange(6)] + x @ p["kernel"] + x[:, :3] @ p["kernel"][:3] + x @ changed

    params = {
        "rows": _normal(9, 5),
        "kernel": _normal(8, 5),
        "changed": _normal(5, 8),
        "unused": _normal(3, 3),
        "count": np.arange(3),
    }
    seen = jc.observe(fn, params, [X])
    assert seen["rows"].uses == (Use("gather", (), ()),) and not seen["rows"].multiplied
    assert seen["kernel"].uses == (
        Use("dot_general", (-2,), ()),
        Use("dot_general with a part of it", (), ()),
    )
    np.testing.assert_allclose(seen["kernel"].state["moment"], X.T @ X, rtol=1e-5)
    assert seen["changed"].uses == (Use("mul", (), ()),) and seen["changed"].state is None
    assert set(seen) == {"rows", "kernel", "changed"}


def test_without_a_statistic_shapes_alone_are_enough_and_nothing_runs():
    def fn(p, x, *, train=False):
        return _two_layers(p, x)

    shapes = jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape, w.dtype), PARAMS)
    batch = jax.ShapeDtypeStruct((6, 8), jnp.float32)
    seen = jc.observe(fn, shapes, [batch], statistic=None)
    assert seen == jc.observe(fn, PARAMS, [X], statistic=None)
    assert seen["a"].packed == (-2,) and seen["a"].state is None


@pytest.mark.parametrize("kind", ["array", "dict", "tuple"])
def test_a_batch_is_one_argument_or_a_tuple_of_them(kind):
    batch, fn = {
        "array": (X, _two_layers),
        "dict": ({"x": X, "mode": "train"}, lambda p, batch: _two_layers(p, batch["x"])),
        "tuple": ((X, False), lambda p, x, train: _two_layers(p, x)),
    }[kind]
    seen = jc.observe(fn, PARAMS, [batch], where=lambda path, leaf: path == "a")
    assert set(seen) == {"a"}
    np.testing.assert_allclose(seen["a"].state["moment"], X.T @ X, rtol=1e-5)


def test_one_program_per_shape_and_statistics_add_up():
    traced = chex.assert_max_traces(_two_layers, n=3)  # once to record, once for each of two shapes
    sizes = (2, 3, 2, 3, 2)
    parts = [_normal(n, 8, seed=i) for i, n in enumerate(sizes)]
    chex.clear_trace_counter()
    seen = jc.observe(traced, PARAMS, iter(parts))
    every = np.concatenate(parts)
    np.testing.assert_allclose(seen["a"].state["moment"], every.T @ every, rtol=1e-5)
    assert float(seen["a"].state["count"]) == sum(sizes)


def test_memory_is_one_batch_and_the_statistics():
    size = 4 * 512 * 8
    held = []

    def batches():
        for i in range(4):
            held.append(sum(x.nbytes for x in jax.live_arrays()) - before)
            yield jnp.full((512, 8), i, jnp.float32)

    before = sum(x.nbytes for x in jax.live_arrays())
    seen = jc.observe(_two_layers, PARAMS, batches())
    statistics = sum(x.nbytes for x in jax.tree.leaves([one.state for one in seen.values()]))
    # When the next batch is made, the last one is gone, and one copy of the statistics is there.
    assert held[0] == 0 and max(held) == statistics < size


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_statistics_of_sharded_batches_are_those_of_the_whole(kind):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    x = _normal(16, 2, 8)
    traced = chex.assert_max_traces(lambda p, x: _two_layers(p, x), n=2)
    chex.clear_trace_counter()
    seen = jc.observe(traced, PARAMS, [jax.device_put(x, rows)] * 3)
    alone = jc.observe(_two_layers, PARAMS, [x] * 3)
    chex.assert_trees_all_close(_moments(seen), _moments(alone), rtol=1e-4, atol=1e-4)
    assert seen["a"].state["moment"].sharding.is_fully_replicated


def test_sharded_layers_are_counted_each():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    x = jax.device_put(_normal(16, 8), NamedSharding(mesh, PartitionSpec("data")))
    with jax.set_mesh(mesh):
        seen = jc.observe(_scan, STACK, [x])[""]
    v = _layers(STACK, np.asarray(x))
    np.testing.assert_allclose(seen.state["moment"], v.swapaxes(1, 2) @ v, rtol=1e-4, atol=1e-5)


def test_your_own_statistic_is_a_pair_of_functions():
    def update(state, x):
        return jnp.minimum(state, x.min(0))

    pair = (lambda size: jnp.zeros(size), update)
    seen = jc.observe(_two_layers, PARAMS, [X, X], statistic=pair)
    np.testing.assert_array_equal(seen["a"].state, X.min(0))
    with pytest.raises(jc.UnsupportedInput, match=r"as init\(8\) does, float32\[8\], got .*\[1, 8"):
        jc.observe(_two_layers, PARAMS, [X], statistic=(jnp.zeros, lambda state, x: state + x))


def test_compressed_leaves_run_as_their_dense_weights():
    mixed = {**PARAMS, "a": jc.formats.quantize(jnp.asarray(PARAMS["a"]), jc.formats.INT8)}
    seen = jc.observe(_two_layers, mixed, [X])
    assert set(seen) == {"b"}
    h = np.tanh(X @ np.asarray(mixed["a"].dense()))
    np.testing.assert_allclose(seen["b"].state["moment"], h.T @ h, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "fn, batches, where, says",
    [
        (_two_layers, [], None, "expected a batch, got an empty iterable"),
        (_two_layers, X, None, r"pass \[batch\]"),
        (_two_layers, {"x": X}, None, r"pass \[batch\]"),
        (_two_layers, None, None, r"an iterable .* got one NoneType; pass \[batch\]"),
        (_two_layers, [X], lambda path, leaf: False, "expected where to select weights, .* a, b;"),
        (_two_layers, [X], lambda path: True, "expected where, .* does not take both"),
        (lambda p, x: x, [X], None, "nothing of params is used"),
        (lambda p, x: p["a"] * 2, [X], None, "met are a by mul"),
    ],
)
def test_what_cannot_be_observed_is_refused(fn, batches, where, says, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    with pytest.raises(jc.UnsupportedInput, match=says):
        jc.observe(fn, PARAMS, batches, where=where)


@pytest.mark.parametrize("layout", ["rows", "replicated", "stacked"])
def test_rows_of_all_devices_count_inside_shard_map(layout):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    x = _normal(16, 2, 8)
    rows = {"rows": PartitionSpec("data"), "stacked": PartitionSpec(("data", "model"))}
    rows = rows.get(layout, PartitionSpec())
    w = STACK if layout == "stacked" else _normal(8, 6)
    each = _scan if layout == "stacked" else lambda w, x: x @ w
    fn = jax.shard_map(each, mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=rows)
    seen = jc.observe(fn, w, [x, x])[""]
    alone = jc.observe(each, w, [x, x])[""]
    chex.assert_trees_all_close(seen.state, alone.state, rtol=1e-4, atol=1e-4)
    assert seen[1:4] == alone[1:4]


def test_what_a_device_does_not_know_is_refused_and_never_wrong():
    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))

    def summed(w, x):
        return lax.psum(x @ w, "model")

    specs = PartitionSpec("model"), PartitionSpec(None, "model")
    for options in ({}, {"check_vma": False}):
        fn = jax.shard_map(summed, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), **options)
        with pytest.raises(jc.UnsupportedInput, match="observe the function without shard_map"):
            jc.observe(fn, PARAMS["b"], [_normal(6, 16)])
        assert jc.observe(fn, PARAMS["b"], [_normal(6, 16)], statistic=None)[""].packed == (-2,)
