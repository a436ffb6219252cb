"""Two thin factors: what has their rank comes out whole, and what has nearly, nearly."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import UnsupportedInput, optim
from tests.checks_optim import check_exchange

RANDOM = np.random.default_rng(0)
KEY = np.array([1, 2], np.uint32)


def matrices(exchange, shape):
    """The exchange, of flat arrays that stand for arrays of this shape."""

    def mean(key, x, state):
        sent, out, state = exchange.mean(key, x.reshape(shape), state)
        return sent.reshape(-1), out.reshape(-1), state

    return exchange._replace(init=lambda x: exchange.init(x.reshape(shape)), mean=mean)


def test_law_and_a_mean_of_its_rank_is_exact_though_senders_have_more():
    low = RANDOM.normal(size=(24, 2)) @ RANDOM.normal(size=(2, 10))
    apart = RANDOM.normal(size=(2, 24, 10))
    apart = np.stack([apart[0], -apart[0], apart[1], -apart[1]])  # which the mean has nothing of
    inputs = (low + apart).reshape(4, -1).astype(np.float32)
    found = check_exchange(lambda axis: matrices(optim.power_sgd(2, axis), (3, 8, 10)), inputs)
    np.testing.assert_allclose(found, inputs.mean(0), atol=2e-5)


def test_factors_in_bfloat16_are_half_the_bytes_and_feedback_has_what_that_rounds():
    inputs = (RANDOM.normal(size=(24, 1)) * RANDOM.normal(size=(4, 1, 10))).astype(np.float32)
    wide, narrow = (
        optim.power_sgd(1, "senders", dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16)
    )

    def run(x):
        # Of rank 1, which one step would do for, if nothing were rounded.
        assert 2 * narrow.nbytes(x) == wide.nbytes(x)
        return narrow.mean(KEY, x, narrow.init(x))[:2]

    sent, mean = (np.asarray(x) for x in jax.vmap(run, axis_name="senders")(inputs))
    rounded = np.abs(sent - inputs).max() / np.abs(inputs).max()
    assert 1e-4 < rounded < 2**-7
    assert np.abs(mean[0] - sent.mean(0)).max() < 2**-7 * np.abs(inputs).max()
    with pytest.raises(UnsupportedInput, match="bfloat16"):
        optim.power_sgd(1, "senders", dtype=jnp.float16)


def test_factors_in_integers_are_a_quarter_of_the_bytes_and_a_rank_more_is_worth_more():
    low = RANDOM.normal(size=(96, 3)) * [8, 2, 1] @ RANDOM.normal(size=(3, 64))
    inputs = np.stack([low, low + 1e-2 * RANDOM.normal(size=low.shape)]).astype(np.float32)
    codes = optim.compressed_mean(optim.quantized(block=32), "senders", remembers=False)
    ways = [
        optim.power_sgd(rank, "senders", factors=factors)
        for rank, factors in ((3, None), (3, optim.dense_mean("senders")), (3, codes), (2, None))
    ]

    def run(x):
        nbytes = [way.nbytes(x) for way in ways]
        assert nbytes[0] == nbytes[1] and 3.4 < nbytes[0] / nbytes[2] < 4
        found = []
        for way in ways:
            _, _, state = way.mean(KEY, x, way.init(x))
            _, mean, state = way.mean(KEY, x, state)
            _, none, kept = way.mean(KEY, x * jnp.nan, state)
            assert jax.tree.structure(kept) == jax.tree.structure(way.init(x))
            found.append((mean, jnp.isnan(none).all(), jax.tree.map(jnp.array_equal, state, kept)))
        return found

    found = jax.jit(jax.vmap(run, axis_name="senders"))(inputs)
    assert np.all(jax.tree.leaves([rest for _, *rest in found]))
    plain, dense, integers, fewer = (np.asarray(mean) for mean, *_ in found)
    np.testing.assert_allclose(dense, plain, atol=1e-3)
    np.testing.assert_array_equal(integers[0], integers[1])  # all have one mean
    off = lambda mean: np.linalg.norm(mean[0] - inputs.mean(0)) / np.linalg.norm(inputs.mean(0))  # noqa: E731
    assert 1e-3 < off(integers) < 2e-2 < 0.05 < off(fewer)
    with pytest.raises(UnsupportedInput, match="same axes"):
        optim.power_sgd(2, "data", factors=codes)


def test_what_factors_would_not_make_smaller_goes_as_it_is():
    inputs = RANDOM.normal(size=(4, 30)).astype(np.float32)
    exchange = matrices(optim.power_sgd(3, "senders"), (5, 6))
    mean = jax.vmap(lambda x: exchange.mean(KEY, x, exchange.init(x))[1], axis_name="senders")
    expected = np.broadcast_to(sum(inputs) / 4, inputs.shape)  # in the order of senders
    np.testing.assert_array_equal(mean(inputs), expected)


def test_nearly_low_rank_gradients_arrive_better_than_their_largest_entries():
    low = RANDOM.normal(size=(48, 4)) * [8, 4, 2, 1] @ RANDOM.normal(size=(4, 64))
    inputs = jnp.asarray(low + RANDOM.normal(size=(8, 48, 64)), jnp.float32)  # noise per sender
    rank = optim.power_sgd(4, "senders")
    nbytes = 4 * 4 * (48 + 64) * 2 * 7 / 8
    # Four bytes for a value and seven bits for its place, seven times.
    largest = optim.gathered(optim.top_k(nbytes / (7 * 4.875) / 3072), "senders")

    def last(exchange, x, steps=4):
        def step(state, i):
            sent, mean, state = exchange.mean(KEY, x, state)
            return state, (sent, mean)

        assert abs(exchange.nbytes(x) / nbytes - 1) < 0.02
        _, (sent, mean) = jax.lax.scan(step, exchange.init(x), None, steps)
        return sent, mean[-1]

    run = jax.vmap(lambda x: (last(rank, x), last(largest, x)), axis_name="senders")
    (sent, mean), (_, other) = jax.jit(run)(inputs)
    off = lambda x: float(jnp.linalg.norm(x - inputs.mean(0)) / jnp.linalg.norm(inputs.mean(0)))  # noqa: E731
    ideal = np.linalg.svd(inputs.mean(0), compute_uv=False)
    ideal = np.sqrt(np.square(ideal[4:]).sum() / np.square(ideal).sum())
    assert off(mean[0]) < 1.01 * ideal < 0.05 and off(other[0]) > 0.5
    lost = jnp.linalg.norm(inputs[:, None] - sent, axis=(2, 3))  # a projection of each
    assert (lost <= jnp.linalg.norm(inputs, axis=(1, 2))[:, None]).all()


@pytest.mark.parametrize("method", [optim.error_feedback, optim.ef21])
def test_over_two_axes_all_is_sent_in_the_end(method):
    exchange = optim.power_sgd(1, ("slices", "chips"))
    transform = method(exchange)
    inputs = {
        "w": RANDOM.normal(size=(2, 2, 3, 4, 10)).astype(np.float32),
        "b": jnp.asarray(RANDOM.normal(size=(2, 2, 6)), jnp.bfloat16),
    }

    def run(x):
        def step(state, _):
            out, state = transform.update(x, state)
            return state, out

        state, outs = jax.lax.scan(chex.assert_max_traces(step, n=2), transform.init(x), None, 60)
        assert [exchange.nbytes(x[k]) for k in "wb"] == [1.5 * 4 * (12 + 10), 2 * (2 * 1 * 3 * 2)]
        return outs, state.own.value[0]["w"]

    chex.clear_trace_counter()
    both = jax.vmap(jax.vmap(run, axis_name="chips"), axis_name="slices")
    outs, memory = jax.jit(both)(inputs)
    found, mean = np.asarray(outs["w"][0, 0]), inputs["w"].mean((0, 1))
    longest = np.sqrt(np.square(memory).sum((-3, -2, -1)).max())
    if method is optim.error_feedback:
        np.testing.assert_allclose(found.sum(0) + memory.mean((0, 1)), 60 * mean, atol=1e-3)
        assert np.abs(found.mean(0) - mean).max() < 0.2
        assert longest > 100  # of its 60 gradients, of which all but the mean are never sent
    else:
        np.testing.assert_allclose(found[-1], mean, atol=1e-3)
        assert longest < 20
    assert outs["b"].dtype == jnp.bfloat16


def test_zeros_and_what_is_not_finite_do_not_end_learning():
    exchange = optim.power_sgd(2, "senders")
    steps = np.zeros((5, 3, 12, 9), np.float32)
    steps[1] = np.outer(RANDOM.normal(size=12), np.arange(9))  # of rank 1
    steps[2, 0, 3, 3] = np.inf
    steps[3] = 1e-25 * RANDOM.normal(size=(12, 2)) @ RANDOM.normal(size=(2, 9))
    steps[4] = 1e25 * RANDOM.normal(size=(12, 2)) @ RANDOM.normal(size=(2, 9))

    def run(x):
        def step(state, x):
            _, mean, after = exchange.mean(KEY, x, state)
            return after, (mean, state, after)

        return jax.lax.scan(step, exchange.init(x[0]), x)[1]

    found = jax.jit(jax.vmap(run, 1, axis_name="senders"))(steps)
    mean, before, after = (np.asarray(x[0]) for x in found)
    assert (mean[0] == 0).all() and not np.isfinite(mean[2]).any()
    np.testing.assert_array_equal(after[2], before[2])
    assert np.isfinite(after).all() and np.linalg.matrix_rank(after[1]) == 2
    for i in (1, 3, 4):
        np.testing.assert_allclose(mean[i], steps[i, 0], atol=1e-4 * abs(steps[i]).max())


def test_arguments_are_checked():
    with pytest.raises(UnsupportedInput, match="a rank of at least 1"):
        optim.power_sgd(0, "senders")
    with pytest.raises(UnsupportedInput, match="names of axes"):
        optim.power_sgd(2, ())
