"""What all transformations share: the identity limit, resuming, bad gradients, senders, leaves."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcomp import optim
from jaxcomp.base import Compressor

PARAMS = {"w": jnp.ones((5, 3)), "b": jnp.zeros(3, jnp.bfloat16), "s": jnp.float32(2)}


def gradients(step):
    random = np.random.default_rng(step)
    return jax.tree.map(lambda p: jnp.asarray(random.normal(size=p.shape), p.dtype), PARAMS)


@pytest.mark.parametrize("method", [optim.compressed, optim.error_feedback, optim.ef21])
def test_identity_is_no_compression(method):
    transform = method(optim.identity())
    # A difference to the reference, in bfloat16, is rounded; the next one makes up for it.
    off = 1e-2 if method is optim.ef21 else 0
    state, update = transform.init(PARAMS), jax.jit(transform.update)
    for step in range(2):
        out, state = update(gradients(step), state)
        for a, b in zip(*map(jax.tree.leaves, (out, gradients(step))), strict=True):
            assert a.dtype == b.dtype
            exact = off == 0 or a.dtype == jnp.float32 and step == 0
            np.testing.assert_allclose(np.float32(a), np.float32(b), atol=0 if exact else off)
    assert state.log.error_norm.value <= off and state.log.count == 2


def test_a_run_resumes_bit_for_bit_and_traces_once():
    transform = optax.chain(optim.error_feedback(optim.qsgd(2), seed=5), optax.sgd(0.1))
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(transform.update, n=1))
    state, saved = transform.init(PARAMS), None
    for step in range(4):
        if step == 2:
            saved = jax.tree.map(np.asarray, state)  # as a checkpoint holds it
        out, state = update(gradients(step), state)
    for step in (2, 3):
        again, saved = update(gradients(step), saved)
    jax.tree.map(np.testing.assert_array_equal, (again, saved), (out, state))


def test_what_is_not_finite_is_seen_and_leaves_the_memory():
    transform = optim.error_feedback(optim.sign(block=8))
    update = jax.jit(transform.update)
    _, before = update(gradients(0), transform.init(PARAMS))
    bad = {**gradients(1), "b": jnp.array([0, jnp.nan, 0], jnp.bfloat16)}
    out, after = update(bad, before)
    assert not jnp.isfinite(out["b"]).all() and jnp.isfinite(out["w"]).all()
    kept = lambda state: (state.own, state.log.error_norm)  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, kept(after), kept(before))
    assert (after.log.skipped, after.log.count) == (1, 2)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    out, _ = update(zeros, transform.init(PARAMS))
    assert all((x == 0).all() for x in jax.tree.leaves(out))


def test_leaves_that_are_not_chosen_are_sent_as_they_are():
    transform = optim.error_feedback(optim.top_k(0.2), where=lambda path, leaf: leaf.ndim == 2)
    state = transform.init(PARAMS)
    out, after = jax.jit(transform.update)(gradients(0), state)
    np.testing.assert_array_equal(out["b"], gradients(0)["b"])
    assert np.count_nonzero(out["w"]) == 3 and np.count_nonzero(after.own.value[0]["w"]) == 12
    assert after.log.nbytes[:, 0].tolist() == [3 * 4 + 2 + 3 * 2 + 4, 15 * 4 + 3 * 2 + 4]


def shows_keys() -> Compressor:
    """Of any array, a number of the key that it was compressed with."""

    def compress(key, x, state):
        return jnp.full(x.shape, key[0] >> 8, x.dtype), state

    return Compressor(lambda x: (), compress, lambda wire: wire, None, None, "keys")


def test_senders_draw_apart_where_they_are_named_and_steps_and_leaves_always():
    mesh = jax.sharding.Mesh(np.array(jax.devices("cpu")[:8]), ("senders",))
    spec = jax.sharding.PartitionSpec("senders")
    stacked = {"a": jnp.ones((8, 2)), "b": jnp.ones((8, 2))}

    def run(transform, mapped):
        state, outs = jax.vmap(transform.init)(stacked), []
        update = jax.jit(mapped(transform.update))
        for _ in range(2):
            out, state = update(stacked, state)
            outs.append(np.stack([out["a"], out["b"]]))
        return np.stack(outs)[..., 0]  # [steps, leaves, senders]

    def on_devices(update):
        def alone(*arguments):
            one = jax.tree.map(lambda x: x[0], arguments)
            return jax.tree.map(lambda x: x[None], update(*one))

        return jax.shard_map(alone, mesh=mesh, in_specs=spec, out_specs=spec)

    named = optim.error_feedback(shows_keys(), axis_name="senders")
    apart = run(named, on_devices)
    assert len(np.unique(apart)) == 2 * 2 * 8
    alike = run(optim.error_feedback(shows_keys(), seed=1), jax.vmap)
    assert len(np.unique(alike)) == 2 * 2 and (alike == alike[..., :1]).all()
    assert not np.isin(alike, apart).any()


def test_half_precision_gradients_are_sent_so_and_the_rounding_is_kept():
    transform = optim.error_feedback(optim.top_k(0.5))
    gradient = jnp.array([1.0, 0.001, 2, 3], jnp.bfloat16)
    state = transform.init(gradient)
    for _ in range(2):
        out, state = jax.jit(transform.update)(gradient, state)
    assert state.log.nbytes[0, 0] == 2 * (2 * 2 + 1)
    np.testing.assert_allclose(
        state.own.value[0] + out.astype(jnp.float32), [2, 0.002, 2, 3], rtol=1e-2
    )
