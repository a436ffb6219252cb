"""Samples have a bounded say, and noise of a known size hides which were there."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcomp import UnsupportedInput, optim
from jaxcomp.optim.private_mean import normal

RANDOM = np.random.default_rng(0)
SAMPLES = {
    "w": np.float32(RANDOM.normal(size=(8, 5, 3)) * np.logspace(-2, 2, 8)[:, None, None]),
    "b": np.float32(RANDOM.normal(size=(8, 3))),
}


def test_without_noise_it_is_what_optax_has():
    ours = optim.private_mean(2.0, 0.0, seed=1)
    theirs = optax.contrib.differentially_private_aggregate(2.0, 0.0, key=jax.random.key(0))
    params = jax.tree.map(lambda x: x[0], SAMPLES)
    found, expected = (
        jax.jit(t.update)(SAMPLES, t.init(params), params)[0] for t in (ours, theirs)
    )
    np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-4, atol=1e-6)
    one = jax.tree.map(lambda x: jnp.bfloat16(x[-1:]), SAMPLES)  # which is clipped
    clipped, _ = jax.jit(ours.update)(one, ours.init(params))
    assert clipped["b"].dtype == jnp.bfloat16
    np.testing.assert_allclose(optax.tree.norm(clipped), 2, 0.01)


def test_noise_is_normal_of_its_size_and_each_senders_own():
    transform = optim.private_mean(0.5, 3.0, seed=1, axis_name="senders")
    bad = {"w": np.zeros((4, 2, 3000), np.float32)}
    bad["w"][1, 1, 7] = np.nan  # leaves no trace
    bad["w"][2, 0, 7] = 1e30  # is clipped

    def run(x):
        out, state = transform.update(x, transform.init(x))
        return out["w"], transform.update(x, state)[0]["w"]

    two = jax.vmap(run, axis_name="senders", in_axes=None, axis_size=2)
    found = np.stack(jax.jit(two)(bad))  # [steps, senders, ...]
    draws = found.reshape(4, -1)
    assert np.isfinite(draws).all() and abs(np.corrcoef(draws) - np.eye(4)).max() < 0.06
    np.testing.assert_allclose(draws.std(), 3.0 * 0.5 / 4, rtol=0.02)
    z = np.sort(np.asarray(normal(jnp.array([3, 4], jnp.uint32), 40_001)))
    np.testing.assert_allclose(z[[905, 6346, 20000, 33654, 39095]], [-2, -1, 0, 1, 2], atol=0.05)


def test_it_comes_before_sketches():
    transform = optax.chain(
        optim.private_mean(clip=1.0, noise=1.1, axis_name="data", seed=1),
        optim.compressed(optim.summed(optim.count_sketch(0.1), "data")),
        optax.sgd(0.1),
    )

    def run(samples):
        params = jax.tree.map(lambda x: x[0], samples)
        return transform.update(samples, transform.init(params), params)[0]

    found = optim.traffic(run, SAMPLES, axes={"data": 4})
    assert found.nbytes == 2 * 3 * (2 * 4 + 1 * 4 + 4) // 4  # 2 buckets, 1, and a flag


def test_a_mean_of_samples_is_refused():
    transform = optim.private_mean(1.0, 1.0, seed=0)
    with pytest.raises(UnsupportedInput, match="samples, ..."):
        transform.update({"w": jnp.ones((3, 2)), "b": jnp.ones(2)}, transform.init(None))
    with pytest.raises(UnsupportedInput, match="clip > 0"):
        optim.private_mean(0.0, 1.0, seed=0)
