"""What all transformations share: senders, resuming, bad gradients, the identity limit, leaves."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcomp import UnsupportedInput, optim
from jaxcomp.base import Compressor

PARAMS = {"w": jnp.ones((5, 3)), "b": jnp.zeros(3, jnp.bfloat16), "s": jnp.float32(2)}
SENDERS = 8
FEW = optim.gathered(optim.top_k(0.3), "senders")
METHODS = {
    "error_feedback": optim.error_feedback(optim.gathered(optim.qsgd(2), "senders"), seed=5),
    "ef21": optim.ef21(FEW),
    "ef21_momentum": optim.ef21_momentum(FEW, 0.5),
    "ef21_w": optim.ef21_w(optim.top_k(0.3), "senders", np.arange(1.0, 1 + SENDERS)),
    "econtrol": optim.econtrol(FEW, 0.3),
    "dgc": optim.dgc("senders", 0.1, clip=1.0, warm_up=1),
}


def chained(method):
    return optax.chain(method, optax.zero_nans(), optax.sgd(0.1))


def all_of(names):
    """One transformation that is each of the methods, on parameters and states by their names."""
    methods = {name: chained(METHODS[name]) for name in names}

    def init(params):
        return {name: methods[name].init(params[name]) for name in names}

    def update(updates, state, params=None):
        pairs = {name: methods[name].update(updates[name], state[name]) for name in names}
        return tuple({name: pair[i] for name, pair in pairs.items()} for i in (0, 1))

    return optax.GradientTransformation(init, update)


# Of each step and sender: where its loss is least; then one of them has a NaN.
DATA = np.random.default_rng(0).normal(size=(4, SENDERS)).astype(np.float32)
DATA[2, 5] = np.nan


@functools.cache
def run(devices, *names):
    """Parameters and states of all steps, and what goes from one to the next; in one program."""
    mesh, transform = Mesh(np.array(jax.devices()[:devices]), ("senders",)), all_of(names)

    def step(params, state, batch):
        def loss(params):
            return sum(jnp.square(jnp.float32(p) - batch[0]).sum() for p in jax.tree.leaves(params))

        updates, state = transform.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state, loss(params)

    chex.clear_trace_counter()
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = jax.device_put(dict.fromkeys(names, PARAMS), everywhere)
    here = (params, optim.init(transform, params, mesh, "senders", senders=SENDERS))
    move = jax.jit(optim.on_senders(chex.assert_max_traces(step, n=1), mesh, "senders"))
    path = [here]
    for batch in DATA:
        here = move(*here, batch)[:2]
        path.append(here)
    return path, move


def test_eight_devices_do_what_lanes_of_one_do():
    names = ("ef21_momentum", "dgc")  # two memories and what is shared; branches with collectives
    lanes, devices = run(1, *names)[0][-1], run(8, *METHODS)[0][-1]
    devices = [{name: each[name] for name in names} for each in devices]
    for a, b in zip(*map(jax.tree.leaves, (list(lanes), devices)), strict=True):
        np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=1e-4, atol=1e-5)


def test_a_run_resumes_bit_for_bit_and_traces_once():
    path, move = run(8, *METHODS)
    saved = jax.device_get(path[1])  # as a checkpoint holds it
    here = jax.device_put(saved, jax.tree.map(lambda x: x.sharding, path[-1]))
    for batch in DATA[1:]:
        here = move(*here, batch)[:2]
    jax.tree.map(np.testing.assert_array_equal, here, path[-1])


@pytest.mark.parametrize("name", METHODS)
def test_what_is_not_finite_is_seen_by_all_and_leaves_the_memory(name):
    path, _ = run(8, *METHODS)
    before, after = (path[i][1][name][0] for i in (2, 3))
    kept = lambda state: (state.own, state.shared, state.log.error_norm)  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, kept(after), kept(before))
    assert (after.log.skipped, after.log.count) == (1, 3)
    at = [np.float32(params[name]["b"]) for params, _ in path]
    assert (at[3] == at[2]).any()  # a NaN, which zero_nans took out
    assert (at[4] != at[3]).any() and np.isfinite(at[4]).all()


@pytest.mark.parametrize("name", METHODS)
def test_zeros_stay_zeros_and_scalars_are_sent(name):
    path, _ = run(8, *METHODS)
    state = path[0][1][name][0]
    assert not any(np.any(x) for x in jax.tree.leaves((state.own, state.shared)))
    assert path[1][0][name]["s"] != 2
    report = optim.report(path[-1][1][name])
    assert report.steps == 4 and 0 < report.sent_nbytes and np.isfinite(report.error_norm)


@pytest.mark.parametrize("method", [optim.compressed, optim.error_feedback, optim.ef21])
def test_identity_is_no_compression(method):
    transform = method(optim.identity())
    # A difference to the reference, in bfloat16, is rounded; the next one makes up for it.
    off = 1e-2 if method is optim.ef21 else 0
    state, update = jax.jit(transform.init)(PARAMS), jax.jit(transform.update)
    for i in range(2):
        out, state = update(gradients(i), state)
        for a, b in zip(*map(jax.tree.leaves, (out, gradients(i))), strict=True):
            assert a.dtype == b.dtype
            exact = off == 0 or a.dtype == jnp.float32 and i == 0
            np.testing.assert_allclose(np.float32(a), np.float32(b), atol=0 if exact else off)
    assert state.log.error_norm.value <= off and state.log.count == 2


def gradients(step):
    random = np.random.default_rng(step)
    return jax.tree.map(lambda p: jnp.asarray(random.normal(size=p.shape), p.dtype), PARAMS)


def test_leaves_that_are_not_chosen_are_sent_as_they_are():
    transform = optim.error_feedback(optim.top_k(0.2), where=lambda path, leaf: leaf.ndim == 2)
    out, after = jax.jit(lambda g: transform.update(g, transform.init(PARAMS)))(gradients(0))
    np.testing.assert_array_equal(out["b"], gradients(0)["b"])
    assert np.count_nonzero(out["w"]) == 3 and np.count_nonzero(after.own.value[0]["w"]) == 12
    assert after.log.nbytes[:, 0].tolist() == [3 * 4 + 2 + 3 * 2 + 4, 15 * 4 + 3 * 2 + 4]


def shows_keys() -> Compressor:
    """Of any array, a number of the key that it was compressed with."""

    def compress(key, x, state):
        return jnp.full(x.shape, key[0] >> 8, x.dtype), state

    return Compressor(lambda x: (), compress, lambda wire: wire, None, None, "keys")


def test_senders_draw_apart_where_they_are_named_and_steps_and_leaves_always():
    def run(transform):
        def each(x):
            def step(state, _):
                out, state = transform.update({"a": x, "b": x}, state)
                return state, jnp.stack([out["a"], out["b"]])

            return jax.lax.scan(step, transform.init({"a": x, "b": x}), None, 2)[1]

        return jax.vmap(each, axis_name="senders")(jnp.ones(8))  # [senders, steps, leaves]

    named = optim.error_feedback(shows_keys(), axis_name="senders")
    alike = optim.error_feedback(shows_keys(), seed=1)
    apart, alike = jax.jit(lambda: (run(named), run(alike)))()
    assert len(np.unique(apart)) == 2 * 2 * 8
    assert len(np.unique(alike)) == 2 * 2 and (alike == alike[:1]).all()
    assert not np.isin(alike, apart).any()


def test_half_precision_gradients_are_sent_so_and_the_rounding_is_kept():
    transform = optim.error_feedback(optim.top_k(0.5))
    gradient = jnp.array([1.0, 0.001, 2, 3], jnp.bfloat16)

    def step(state, _):
        return tuple(reversed(transform.update(gradient, state)))

    run = jax.jit(lambda: jax.lax.scan(step, transform.init(gradient), None, 2))
    state, outs = run()
    assert state.log.nbytes[0, 0] == 2 * (2 * 2 + 2)
    np.testing.assert_allclose(
        state.own.value[0] + outs[-1].astype(jnp.float32), [2, 0.002, 2, 3], rtol=1e-2
    )


def test_layers_are_leaves_of_their_own_in_a_loop():
    random = np.random.default_rng(5)
    stacked = jnp.asarray(random.normal(size=(8, 3, 40)), jnp.float32)  # [senders, layers, n]
    exchange = optim.compressed_mean(optim.sign(block=8), "senders")

    def run(transform, g):
        state = transform.init(g)
        _, state = transform.update(g, state)
        out, state = transform.update(g, state)
        return out, state.own.value[0], state.log.nbytes

    looped = optim.error_feedback(exchange, layers=lambda path, leaf: leaf.ndim == 2)
    apart = optim.error_feedback(exchange)
    over = functools.partial(jax.vmap, axis_name="senders")
    a = jax.jit(over(functools.partial(run, looped)))(stacked)
    leaves = [stacked[:, i] for i in range(3)]
    b = jax.jit(over(functools.partial(run, apart)))(leaves)
    for x, y in zip(a[:2], b[:2], strict=True):
        np.testing.assert_allclose(x, np.stack(y, 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(a[2], b[2])


def test_lone_senders_that_are_named_skip_together():
    transform = optim.error_feedback(optim.top_k(0.5), axis_name="senders")
    good = jnp.arange(8.0).reshape(4, 2) + 1
    bad = good.at[2].set(jnp.nan)

    def run(g, b):
        state = transform.init(g)
        _, first = transform.update(g, state)
        _, second = transform.update(b, first)
        return first, second

    # What is no sender's own comes out of the lanes as one.
    first, second = jax.jit(jax.vmap(run, axis_name="senders"))(good, bad)
    np.testing.assert_array_equal(second.log.skipped, [1, 1, 1, 1])
    np.testing.assert_array_equal(first.own.value[0], second.own.value[0])


def test_layers_have_an_axis_of_them():
    method = optim.error_feedback(optim.sign(), layers=lambda path, leaf: True)
    with pytest.raises(UnsupportedInput, match=r"got 'gain' of shape \(\)"):
        method.init({"gain": jnp.zeros(())})
