"""Counts by hand, of every kind of layer; counting leaves no trace in what runs."""

import importlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcomp.base import JaxcompError
from jaxcomp.nets.fixed_point import FixedPoint, quantise
from jaxcomp.nets.gdn import GDN
from jaxcomp.nets.integer import (
    FEATURES,
    IntegerConv,
    IntegerDense,
    checkerboard_mask,
    to_integers,
)
from jaxcomp.nets.macs import macs
from tests.nets.cases import random_variables

WIDE = FixedPoint(16, 8)
X = np.zeros((2, 6, 8, 12), np.float32)
PIXELS = 2 * 6 * 8
INTEGER = [
    (IntegerDense(5), PIXELS * 12 * 5),
    (IntegerConv(7), PIXELS * 9 * 12 * 7),
    (IntegerConv(7, (1, 1), source=WIDE, weight_bits=16), PIXELS * 12 * 7),
    (IntegerConv(6, (5, 3), groups=3, target=WIDE), PIXELS * 15 * 4 * 6),
    (IntegerConv(12, groups=12), PIXELS * 9 * 12),
    (IntegerConv(4, (5, 5), mask=checkerboard_mask(5)), PIXELS * 12 * 12 * 4),
]
FLOAT = [
    (nn.Dense(5), PIXELS * 12 * 5),
    (nn.Conv(7, (3, 3)), PIXELS * 9 * 12 * 7),
    (nn.Conv(7, (5, 5), strides=2), PIXELS // 4 * 25 * 12 * 7),
    (nn.Conv(6, (3, 3), feature_group_count=3), PIXELS * 9 * 4 * 6),
    (nn.ConvTranspose(7, (3, 3), strides=(2, 2)), PIXELS * 9 * 12 * 7),
    (GDN(), PIXELS * 12 * 12),
    # Four projections, and two products of all pixels of a row with all.
    (nn.MultiHeadDotProductAttention(3), PIXELS * (4 * 12 * 12 + 2 * 8 * 12)),
]


def _name(case):
    return type(case).__name__ if isinstance(case, nn.Module) else None


@pytest.mark.parametrize("net, expected", INTEGER, ids=_name)
def test_integer_layers(net, expected):
    integers = quantise(X, net.source)
    assert macs(net.apply, {}, integers) == expected
    assert macs(net.apply, {}, jax.ShapeDtypeStruct(X.shape, jnp.float32)) == expected
    assert macs(net.apply, {}, integers[:1]) == expected // 2
    assert macs(jax.jit(jax.vmap(lambda x: net.apply({}, x))), integers) == expected
    seen = []
    macs(lambda x: seen.append(net.apply({}, x)), integers)
    assert seen[0].shape == (*X.shape[:-1], net.features) and seen[0].dtype == net.target.dtype


@pytest.mark.parametrize("net, expected", FLOAT, ids=_name)
def test_float_layers(net, expected):
    variables = jax.eval_shape(net.init, jax.random.key(0), X)
    assert macs(net.apply, variables, X) == expected


class Three(nn.Module):
    """A layer three times, in a scan."""

    @nn.compact
    def __call__(self, x):
        def body(layer, x, _):
            return layer(x), None

        many = nn.scan(body, {"params": 0, "integers": 0}, {"params": True}, length=3)
        return many(IntegerConv(12), x, None)[0]


def test_repeats_and_branches():
    x, w = X[0, 0], np.zeros((12, 12), np.float32)  # a product is 8 x 12 x 12
    one = 8 * 12 * 12
    assert macs(Three().apply, {}, quantise(X, FEATURES)) == 3 * PIXELS * 9 * 12 * 12
    assert macs(lambda x: lax.scan(lambda x, _: (x @ w, None), x, length=5)[0], x) == 5 * one
    assert macs(lambda x: lax.cond(x[0, 0] > 0, lambda x: x @ w @ w, lambda x: x @ w, x), x) == (
        2 * one
    )
    assert macs(jax.grad(lambda w: (x @ w).sum()), w) == 2 * one
    assert macs(lambda x: 3 * x + x**2, x) == 0
    assert macs(lambda x: lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x + 1, x), x) == 0
    with pytest.raises(JaxcompError, match="inside a while"):
        macs(lambda x: lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ w, x), x)
    with pytest.raises(JaxcompError, match="multiple of 5"):
        macs(IntegerConv(5, groups=5).apply, {}, X)


def test_counting_and_running_do_not_meet():
    """One jitted function, counted before and after it ran: the same counts, the same numbers."""
    net = IntegerConv(7, source=WIDE)
    x = np.random.default_rng(0).normal(0, 2, X.shape).astype(np.float32)
    integers, x = to_integers(net, random_variables(net, x), x), quantise(x, WIDE)
    run = jax.jit(net.apply)
    before = macs(run, integers, x)
    y = run(integers, x)
    assert before == macs(run, integers, x) == PIXELS * 9 * 12 * 7
    np.testing.assert_array_equal(y, jax.jit(lambda *a: net.apply(*a))(integers, x))
    assert len(np.unique(y)) > 20


def test_importing_it_has_nothing_compiled_again():
    traced = []
    run = jax.jit(lambda x: traced.append(x) or x)
    run(1)
    importlib.reload(sys.modules[macs.__module__])
    run(1)
    assert len(traced) == 1
