"""Learned frequencies: the law with contexts, the entropy of the counts, escapes outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.entropy import categorical
from tests.checks import check_entropy_model


def test_the_law_and_the_entropy_of_the_counts():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(40, 0.3), 3)
    context = rng.integers(0, 3, (200, 150)).astype(np.int32)
    symbols = (
        (rng.random((200, 150, 1)) > p.cumsum(1)[context]).sum(-1).clip(0, 39).astype(np.int32)
    )
    model = categorical(40, contexts=3)

    def loss(params):
        return model.bits(params, jnp.asarray(symbols), context).mean()

    step = jax.jit(lambda q: jax.tree.map(lambda a, b: a - 20 * b, q, jax.grad(loss)(q)))
    params = model.init()
    assert abs(float(loss(params)) - np.log2(40)) < 1e-5
    for _ in range(300):
        params = step(params)
    counts = np.stack([np.bincount(symbols[context == c], minlength=40) for c in range(3)])
    share = counts / counts.sum(1, keepdims=True)
    ideal = -(counts * np.log2(np.where(share > 0, share, 1))).sum() / symbols.size
    assert abs(float(loss(params)) - ideal) < 0.01
    check_entropy_model(model, params, symbols, context)


def test_outside_there_are_infinite_bits_and_an_escape():
    model = categorical(4)
    params = model.init()
    np.testing.assert_array_equal(
        model.bits(params, jnp.array([-1.0, 0.0, 3.0, 4.0])), [np.inf, 2, 2, np.inf]
    )
    slope = jax.grad(lambda q: model.bits(q, jnp.array([1.0, 3.0])).sum())(params)
    assert np.isfinite(slope["logits"]).all()
    assert int(np.asarray(model.tables(params).frequencies)[0, -1]) == 1
    with pytest.raises(jc.JaxcompError, match="got 0 and 1"):
        categorical(0)
