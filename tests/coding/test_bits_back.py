"""Bits-back: inverses both ways, and the evidence bound, far below coding z and x apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.coding import bits_back, build_tables, empty
from jaxcomp.coding.bits_back import chain, symbols, with_words

COUNT, LATENTS, VALUES, LANES = 4000, 16, 32, 16


def mixture(seed=0):
    """p(z), p(x | z) with broad overlapping components, and the exact q(z | x)."""
    rng = np.random.default_rng(seed)
    prior = rng.dirichlet(np.full(LATENTS, 3.0))
    distance = np.arange(VALUES)[None] - np.linspace(0, VALUES, LATENTS)[:, None]
    likelihood = np.exp(-np.abs(distance) / 4)
    likelihood /= likelihood.sum(1, keepdims=True)
    joint = prior[:, None] * likelihood
    return prior, likelihood, (joint / joint.sum(0)).T, joint.sum(0)


def coder(prior, likelihood, posterior):
    tables = [build_tables(p) for p in (prior, likelihood, posterior)]
    return bits_back.bits_back(
        symbols(tables[0], shape=(COUNT,)),
        lambda z: symbols(tables[1], z),
        lambda x: symbols(tables[2], x),
    )


def start(words=2000):
    seed = np.random.default_rng(9).integers(0, 1 << 16, (1, words))
    return with_words(empty(LANES, 8000), jnp.asarray(seed, jnp.uint16))


def bits(stream):
    return 16 * float(stream.size.sum()) + float(np.log2(np.asarray(stream.head, float)).sum())


def same(a, b):
    used = jnp.arange(a.words.shape[1]) < a.size[:, None]
    return bool(
        (a.size == b.size).all()
        & (a.head == b.head).all()
        & jnp.where(used, a.words == b.words, True).all()
    )


def test_pop_inverts_push_and_the_rate_is_the_evidence():
    prior, likelihood, posterior, evidence = mixture()
    x = np.random.default_rng(1).choice(VALUES, COUNT, p=evidence).astype(np.int32)
    model = coder(prior, likelihood, posterior)
    before = start()
    full = jax.jit(model.push)(before, x)
    back, after = jax.jit(model.pop)(full)
    np.testing.assert_array_equal(back, x)
    assert same(before, after)
    net = bits(full) - bits(before)
    ideal = -np.log2(evidence[x]).sum()
    assert abs(net / ideal - 1) < 0.01
    # Coding the best z and then x, without getting its bits back, costs far more.
    z = posterior[x].argmax(1)
    assert net < 0.8 * (-np.log2(prior[z]) - np.log2(likelihood[z, x])).sum()


def test_push_inverts_pop():
    pair = chain(
        symbols(build_tables(np.ones(5)), shape=(64,)),
        symbols(build_tables(np.array([3.0, 1.0])), shape=(32,)),
    )
    before = start()
    parts, popped = pair.pop(before)
    assert parts[0].shape == (64,) and parts[1].shape == (32,)
    assert same(before, pair.push(popped, parts))


def test_words_that_do_not_fit_are_refused():
    with pytest.raises(jc.CapacityError, match="at most 10 words"):
        with_words(empty(4, 10), jnp.zeros((1, 11), jnp.uint16))
