"""Sharded parameters on a 4x2 mesh: int8 within, anything between, feedback at both."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxcomp import UnsupportedInput, optim
from jaxcomp.formats import INT4, INT8
from tests.compiling import optimised

RANDOM = np.random.default_rng(0)
PARAMS = {
    "w": RANDOM.normal(size=(6, 32)).astype(np.float32) / 4,
    "b": np.zeros(1, np.float32),
}
SPECS = {"w": PartitionSpec(None, "shard"), "b": PartitionSpec()}
AXES = {"w": 1, "b": None}
X = RANDOM.normal(size=(64, 6)).astype(np.float32)
BATCH = (X, np.tanh(X @ RANDOM.normal(size=(6, 32))).astype(np.float32))


def mesh():
    return Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "shard"))


def gradients(params, x, y):
    def loss(params):
        return jnp.square(jnp.tanh(x @ params["w"] + params["b"]) - y).mean()

    return jax.value_and_grad(loss)(params)


def train(transform, whole=optim.identity(), steps=20):  # noqa: B008  a tuple of functions
    def step(params, state, x, y):
        full = optim.all_gather(whole, params, "shard", SPECS)
        loss, found = gradients(full, x, y)
        found, state = transform.update(found, state, params)
        return optax.apply_updates(params, found), state, loss

    on_mesh = optim.on_sharded(step, mesh(), SPECS)

    def run(params, state):
        def one(carry, _):
            *carry, loss = on_mesh(*carry, *BATCH)
            return tuple(carry), loss.mean()

        return lax.scan(one, (params, state), None, steps)

    (params, state), losses = jax.jit(run)(
        PARAMS, optim.init_sharded(transform, PARAMS, mesh(), SPECS)
    )
    return params, state, np.asarray(losses)


def chain(first, second, memory=None):
    return optax.chain(
        optim.reduce_scatter(first, "shard", SPECS, memory=memory),
        optim.error_feedback(second),
        optax.sgd(0.5, momentum=0.5),
    )


@functools.cache
def dense():
    return train(chain(optim.identity(), optim.dense_mean("data")))


def test_the_identity_is_no_compression_bit_for_bit():
    def mean(g, axis):  # as written down, in the order of devices
        a, b = lax.all_gather(g, "shard")
        g = (a + b) / 2
        if axis is not None:
            g = jnp.stack(jnp.split(g, 2, axis))[lax.axis_index("shard")]
        a, b, c, d = lax.all_gather(g, "data")
        return (a + b + c + d) / 4

    def step(params, state, x, y):
        full = optim.all_gather(optim.identity(), params, "shard", SPECS)
        _, found = gradients(full, x, y)
        found, _ = transform.update(found, state, params)
        _, same = gradients({k: whole(x, k) for k, x in params.items()}, x, y)
        return found, state, {k: mean(same[k], AXES[k]) for k in same}

    def whole(x, k):
        return x if AXES[k] is None else lax.all_gather(x, "shard", axis=AXES[k], tiled=True)

    transform = chain(optim.identity(), optim.dense_mean("data"))
    state = optim.init_sharded(transform, PARAMS, mesh(), SPECS)
    found, _, same = jax.jit(optim.on_sharded(step, mesh(), SPECS))(PARAMS, state, *BATCH)
    for k, axis in AXES.items():
        expected = same[k][0] if axis is None else np.concatenate(list(same[k][:2]), axis)
        np.testing.assert_array_equal(found[k], np.float32(-0.5) * expected)
    params, state, losses = dense()
    assert params["w"].sharding.shard_shape((6, 32)) == (6, 16) and losses[-1] < 0.5 * losses[0]
    report = optim.report(state[0])
    nbytes = 20 * (4 * 6 * 32 // 2 + 8 + 4)  # of one device; b is filled up
    assert report.sent_nbytes == 8 * nbytes and (report.steps, report.error_norm) == (20, 0)


def test_int8_within_and_few_bytes_between_follow_the_uncompressed_run():
    _, state, losses = train(
        chain(
            optim.quantized(INT4, block=32),
            optim.gathered(optim.quantized(INT8), "data"),
            memory=optim.quantized(INT8),
        ),
        whole=optim.quantized(INT8),
    )
    assert abs(losses / dense()[2] - 1).max() < 0.02
    sent = optim.report(state[0])
    assert sent.ratio > 5 and sent.error_norm > 0
    kept = state[0].own.value[0]  # one of them in int8: a byte and a little for each entry
    assert all(x.dtype != jnp.float32 for x in jax.tree.leaves(kept))


def test_feedback_sends_all_in_the_end_and_bad_gradients_stay_out_of_it():
    specs = {"w": PartitionSpec("shard")}
    transform = optim.reduce_scatter(optim.sign(block=16), "shard", specs)
    inputs = RANDOM.normal(size=(2, 8, 6)).astype(np.float32)

    def run(g):
        def step(state, _):
            out, state = transform.update({"w": g}, state)
            return state, out["w"]

        state, outs = lax.scan(step, transform.init({"w": g[:4]}), None, 50)
        bad = jnp.where((lax.axis_index("shard") == 1) & (jnp.arange(8)[:, None] == 0), jnp.inf, g)
        seen, after = transform.update({"w": bad}, state)
        zeros, _ = transform.update({"w": jnp.zeros_like(g)}, transform.init({"w": g[:4]}))
        return outs, seen["w"], zeros["w"], state, after

    outs, seen, zeros, state, after = jax.jit(jax.vmap(run, axis_name="shard"))(inputs)
    mean = inputs.mean(0).reshape(2, 4, 6)
    np.testing.assert_allclose(outs.mean(1), mean, atol=0.3)
    assert abs(outs[:, 0] - mean).max() > 0.6  # a sign alone is far from it
    assert np.isnan(seen).all() and (zeros == 0).all()
    jax.tree.map(np.testing.assert_array_equal, after.own, state.own)
    assert (after.log.skipped == 1).all()


def test_sums_beyond_a_float_stay_out_of_memories():
    transform = optim.reduce_scatter(optim.top_k(0.5), "shard", {"w": PartitionSpec("shard")})
    of_one = np.array([[3e38, 2.5e38], [0, 0]], np.float32)  # what waits comes to 5e38

    def run(g):
        g = {"w": g}
        state = transform.init(g)
        outs = []
        for given in (g, g, jax.tree.map(jnp.zeros_like, g)):
            out, state = transform.update({"w": jnp.tile(given["w"], 2)}, state)
            outs.append(out["w"])
        return jnp.stack(outs), state

    outs, state = jax.jit(jax.vmap(run, axis_name="shard"))(of_one)
    assert np.isnan(outs[:, 1]).all() and np.isfinite(outs[:, 2]).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.own))
    assert (state.log.skipped == 1).all()


def test_replicas_that_are_named_draw_apart():
    g = {"w": jnp.asarray(RANDOM.normal(size=64), jnp.float32)}  # the same on all four
    specs = {"w": PartitionSpec("shard")}
    transform = optim.reduce_scatter(optim.qsgd(2), "shard", specs, replicas="data")

    def run(_):
        return transform.update(g, transform.init({"w": g["w"][:32]}))[0]["w"]

    with optimised(False):
        both = jax.vmap(jax.vmap(run, axis_name="shard"), axis_name="data")
        found = jax.jit(both)(jnp.zeros((2, 2))).reshape(2, 64)
    one, mean = (np.square(x - g["w"]).sum() for x in (found, found.mean(0)))
    assert mean < 0.7 * one / 2  # it has less noise than each of the two


def test_the_traffic_is_that_of_the_report_and_the_collective_is_of_integers():
    transform = optim.reduce_scatter(optim.quantized(INT8), "shard", SPECS)

    def run(g):
        shards = {"w": g["w"][:, :4], "b": g["b"]}
        return transform.update(g, transform.init(shards))[1].log.nbytes[0, 0]

    g = {k: jnp.asarray(x) for k, x in PARAMS.items()}
    found = optim.traffic(run, g, axes={"shard": 8})
    said = jax.jit(jax.vmap(run, axis_name="shard", axis_size=8, in_axes=None))(g)[0]
    assert found.nbytes == said
    assert {(x.kind, x.dtype) for x in found.links} >= {("all-to-all", "int8")}


def test_what_does_not_fit_is_told():
    transform = optim.reduce_scatter(optim.identity(), "shard", SPECS)
    here = functools.partial(jax.vmap, axis_name="shard", axis_size=2, in_axes=None)
    with pytest.raises(UnsupportedInput, match="the whole gradient"):
        here(lambda p: transform.update(p, transform.init(p))[0])(PARAMS)
    with pytest.raises(UnsupportedInput, match="specs like the parameters"):
        here(optim.reduce_scatter(optim.identity(), "shard", {"w": PartitionSpec()}).init)(PARAMS)
    with pytest.raises(UnsupportedInput, match="by 'shard' alone"):
        both = PartitionSpec(("shard", "data"))
        here(optim.reduce_scatter(optim.identity(), "shard", both).init)(PARAMS)
