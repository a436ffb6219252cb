"""What all have a little of is found, though nobody keeps anything."""

import chex
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

from jaxcomp import UnsupportedInput, optim
from jaxcomp.optim.count_sketch import hashed
from jaxcomp.optim.fetch_sgd import read, sketched

RANDOM = np.random.default_rng(0)
SENDERS, SIZE = 4, 1000
COMMON = np.zeros(SIZE, np.float32)
COMMON[RANDOM.choice(SIZE, 10, replace=False)] = 1
OWN = np.zeros((SENDERS, SIZE), np.float32)  # larger, but of nothing in the mean
for i in range(SENDERS):
    OWN[i, RANDOM.choice(SIZE, 20, replace=False)] = 5
INPUTS = COMMON + OWN - OWN.mean(0)


def means(transform, inputs, steps):
    def run(x):
        def step(state, _):
            out, state = transform.update(x, state)
            return state, out

        return jax.lax.scan(chex.assert_max_traces(step, n=2), transform.init(x), None, steps)

    chex.clear_trace_counter()
    state, outs = jax.jit(jax.vmap(run, axis_name="senders"))(inputs)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, x[:1].repeat(len(x), 0)), outs)
    return jax.tree.map(lambda x: np.asarray(x[0]), (state, outs))


def test_a_median_of_rows_sees_large_entries():
    x = jnp.asarray(10 * COMMON + 0.1 * RANDOM.normal(size=SIZE), jnp.float32)
    hashes = [hashed(jnp.array([1, i], jnp.uint32), SIZE, 400) for i in range(7)]
    bucket, sign = map(jnp.stack, zip(*hashes, strict=True))
    found = read(sketched(x, bucket, sign, 400), bucket, sign)
    assert set(np.argsort(-abs(found))[:10]) == set(np.flatnonzero(COMMON))


def test_what_is_in_the_mean_arrives_and_top_k_without_memory_misses_it():
    steps = 30
    ours = optim.fetch_sgd("senders", density=0.01, buckets=0.5, momentum=0.0)
    state, outs = means(ours, INPUTS, steps)
    off = np.linalg.norm(outs.sum(0) / steps - COMMON) / np.linalg.norm(COMMON)
    theirs = optim.compressed(optim.gathered(optim.top_k(0.01), "senders"))
    _, other = means(theirs, INPUTS, steps)
    missed = np.linalg.norm(other.sum(0) / steps - COMMON) / np.linalg.norm(COMMON)
    assert off < 0.1 and missed > 0.9, (off, missed)
    assert (np.count_nonzero(outs, 1) <= 10).all()
    assert state.log.nbytes[:, 0].tolist() == [steps * 3 * 5 * 100 * 2, steps * 6 * 1000]


def test_with_as_many_entries_as_buckets_it_is_momentum():
    gradients = {"w": INPUTS, "b": jnp.asarray(INPUTS[:, :3], jnp.bfloat16)}
    chosen = optim.fetch_sgd("senders", where=lambda path, leaf: False, momentum=0.5)
    _, outs = means(chosen, gradients, 3)
    plain, state = optax.trace(0.5), None
    mean = jax.tree.map(lambda x: np.float32(x).mean(0), gradients)
    state = plain.init(mean)
    for i in range(3):
        expected, state = plain.update(mean, state)
        np.testing.assert_allclose(outs["w"][i], expected["w"], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(np.float32(outs["b"][i]), expected["b"], rtol=0.02, atol=0.02)
    assert outs["b"].dtype == jnp.bfloat16


def test_zeros_and_what_is_not_finite():
    transform = optim.fetch_sgd("senders", buckets=0.5)

    def run(x):
        _, state = transform.update(x, transform.init(x))
        bad = x.at[0].add(jnp.where(jax.lax.axis_index("senders") == 0, jnp.inf, 0))
        out, after = transform.update(bad, state)
        zeros, _ = transform.update(0 * x, transform.init(x))
        return out, state, after, zeros

    out, before, after, zeros = jax.jit(jax.vmap(run, axis_name="senders"))(INPUTS)
    assert np.isnan(out).all() and (zeros == 0).all() and (after.log.skipped == 1).all()
    jax.tree.map(np.testing.assert_array_equal, before[2:], after[2:])


@pytest.mark.parametrize("rows", [4, 5.0])
def test_rows_that_have_no_median_are_refused(rows, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    with pytest.raises(UnsupportedInput, match="an odd number"):
        optim.fetch_sgd("senders", rows=rows)
