"""Deep Gradient Compression, part by part, and what it is without them."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

from jaxcomp import UnsupportedInput, optim
from tests.optim.inputs import descend

RANDOM = np.random.default_rng(2)
SENDERS, STEPS = 4, 12
PARAMS = {"w": jnp.zeros((6, 5)), "b": jnp.zeros(5)}
GRADIENTS = {
    name: jnp.asarray(RANDOM.normal(size=(SENDERS, STEPS, *x.shape)), jnp.float32)
    for name, x in PARAMS.items()
}


def matrices(path, leaf):
    return leaf.ndim == 2


def follow(**transforms):
    """{name: (outs [steps, ...], state at the end)}, of all senders."""

    def one(gradients):
        def of(transform):
            def step(state, g):
                return tuple(reversed(transform.update(g, state)))

            end, outs = jax.lax.scan(step, transform.init(PARAMS), gradients)
            return outs, end

        return {name: of(transform) for name, transform in transforms.items()}

    return jax.device_get(jax.jit(jax.vmap(one, axis_name="senders"))(GRADIENTS))


def dgc(density=0.1, **options):
    return optim.dgc("senders", density, **options)


def close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), a, b)


def test_limits_and_momentum_correction():
    few = optim.gathered(optim.top_k(0.1), "senders")
    whole = optax.stateless(lambda updates, params: jax.lax.pmean(updates, "senders"))
    found = follow(
        plain=optax.chain(whole, optax.trace(0.9)),
        all=dgc(1.0, masking=False),
        plain_nesterov=optax.chain(whole, optax.trace(0.9, nesterov=True)),
        all_nesterov=dgc(1.0, masking=False, nesterov=True),
        feedback=optim.error_feedback(few, where=matrices),
        without=dgc(momentum=0.0),
        corrected=dgc(masking=False),
        later=optax.chain(optim.error_feedback(few, where=matrices), optax.trace(0.9)),
    )
    outs = {name: jax.tree.map(lambda x: x[0], each[0]) for name, each in found.items()}
    # Everything sent is momentum SGD, and no momentum is error feedback; biases always go whole.
    close(outs["all"], outs["plain"])
    close(outs["all_nesterov"], outs["plain_nesterov"])
    jax.tree.map(np.testing.assert_array_equal, outs["without"], outs["feedback"])
    close(outs["corrected"]["b"], outs["plain"]["b"])
    # What is owed is velocity: with it, all is where momentum SGD is. Owed gradients are not
    # enough, for momentum after the exchange has yet to make something of them.
    velocity, gradient = found["corrected"][1].own, found["later"][1][0].own
    there = outs["plain"]["w"].sum(0)
    owed = velocity.value[0]["w"][1].mean(0)
    np.testing.assert_allclose(outs["corrected"]["w"].sum(0) + owed, there, atol=1e-4)
    owed = gradient.value[0]["w"].mean(0)
    assert abs(outs["later"]["w"].sum(0) + owed - there).max() > 1


def test_masking_ends_velocities_that_are_out_of_date():
    curves = jnp.asarray(RANDOM.uniform(0.5, 2, (4, 64)), jnp.float32)
    centres = jnp.asarray(RANDOM.normal(size=(4, 64)), jnp.float32)
    best = (curves * centres).sum(0) / curves.sum(0)

    def off(masking):
        path = descend(
            dgc(1 / 16, masking=masking, where=None),
            lambda x: curves * (x - centres),
            best + 1,
            step=0.03,
            steps=400,
        )
        return np.linalg.norm(path[200:] - best, axis=1).mean()

    assert off(True) < 0.5 * off(False)


def test_clipping_is_of_each_sender_before_anything_is_added():
    transform = dgc(0.5, clip=1.0)
    norms = np.array([0.0, 0.1, 100, 1e30], np.float32)

    def one(g):
        out, state = transform.update(g, transform.init(g))
        return out, state.own.value[0][0], state.log.skipped

    g = norms[:, None, None] * np.float32([[0.6, 0.8]])
    g[3, 0, 0] = g[3, 0, 1]  # its square is no float32
    run = jax.jit(jax.vmap(one, axis_name="senders"))
    _, velocity, _ = run(np.concatenate([g[:3], g[:1]]))
    np.testing.assert_allclose(
        np.linalg.norm(velocity[:, 0] + 0, axis=-1), [0, 0.1 * 0.6, 0.5 * 0.6, 0], rtol=1e-5
    )
    out, _, skipped = run(g)
    assert np.isnan(out).any((1, 2)).all() and (skipped == 1).all()


def test_warm_up_sends_fewer_entries_at_each_stage():
    transform = dgc(0.01, warm_up=2)

    def one(gradients):
        def step(state, g):
            _, state = transform.update(g, state)
            return state, (state.log.nbytes[0, 0], state.own.value[0][1])

        return jax.lax.scan(step, transform.init(gradients[0]), gradients)[1]

    gradients = RANDOM.normal(size=(2, 8, 20, 20)).astype(np.float32)
    nbytes, owed = jax.jit(jax.vmap(one, axis_name="senders"))(gradients)
    counts = [100, 100, 25, 25, 6, 6, 4, 4]
    assert [(x == 0).sum() for x in owed[0]] == counts
    # To one other: values, places among 400, and whether all is finite.
    places = {100: 25 + 25, 25: 13 + 7, 6: 6 + 2, 4: 3 + 2}
    expected = [4 * k + places[k] + 4 for k in counts]
    np.testing.assert_array_equal(nbytes, np.tile(np.cumsum(expected), (2, 1)))


def test_what_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    for options, message in (
        (dict(density=0.0), "a density above 0"),
        (dict(momentum=1.0), "momentum of 0 and below 1"),
        (dict(clip=0.0), "a positive norm"),
        (dict(warm_up=-1), "a number of steps"),
        (dict(compressor=optim.top_k(0.1)), "a function of a density, got 'top_k"),
    ):
        with pytest.raises(UnsupportedInput, match=message):
            dgc(**options)
