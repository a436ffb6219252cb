"""Residual blocks: the identity at first, anything later, in floats and in integers."""

import jax
import numpy as np
import pytest

from jaxcomp.base import JaxcompError
from jaxcomp.nets.fixed_point import dequantise, quantise
from jaxcomp.nets.integer import FEATURES, IntegerConv
from jaxcomp.nets.residual import IntegerResidualBlock, ResidualBlock
from tests.nets.cases import check_one_trace, check_trained_as_run, random_variables

X = np.random.default_rng(0).normal(0, 1.5, (8, 4, 6, 5)).astype(np.float32)


ON_GRID = dequantise(quantise(X, FEATURES), FEATURES)


@pytest.mark.parametrize("bottleneck, kernels", [(None, 2 * 9 * 25), (3, 2 * 15 + 81)])
@pytest.mark.parametrize("kind", [ResidualBlock, IntegerResidualBlock])
def test_a_new_block_is_the_identity(kind, bottleneck, kernels):
    block = kind(bottleneck)
    apply = jax.jit(block.apply)
    variables = jax.jit(block.init)(jax.random.key(0), X[:1])
    np.testing.assert_array_equal(apply(variables, ON_GRID), ON_GRID)
    sizes = [leaf.size for leaf in jax.tree.leaves(variables) if leaf.ndim == 4]
    assert sum(sizes) == kernels
    moved = apply(random_variables(block, X), ON_GRID)
    assert moved.shape == X.shape and np.abs(moved - ON_GRID).max() > 0.5


def test_depth_costs_no_scale():
    """Ten new blocks in a row return their input; ten plain layers do not."""
    x = y = ON_GRID
    block, plain = IntegerResidualBlock(), IntegerConv(5, relu=True)
    start = jax.jit(block.init)(jax.random.key(0), x)
    apply, apply_plain = jax.jit(block.apply), jax.jit(plain.apply)
    for seed in range(10):
        x = apply(start, x)
        y = apply_plain(random_variables(plain, y, seed=seed), y)
    np.testing.assert_array_equal(x, ON_GRID)
    assert np.abs(y - ON_GRID).max() > 1


def test_integers_as_trained():
    assert len(np.unique(check_trained_as_run(IntegerResidualBlock(bottleneck=3), X))) > 50


def test_one_trace():
    check_one_trace(ResidualBlock(), X)


def test_refusals():
    with pytest.raises(JaxcompError, match="use None"):
        ResidualBlock(bottleneck=0).init(jax.random.key(0), X)
