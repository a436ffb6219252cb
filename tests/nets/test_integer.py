"""The law of nets: trained in floats, run in integers, the same values under everything."""

import gc
import weakref
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcomp.base import JaxcompError
from jaxcomp.nets import integer
from jaxcomp.nets.fixed_point import FixedPoint, add, quantise, rescale
from jaxcomp.nets.integer import (
    FEATURES,
    IntegerConv,
    IntegerDense,
    TableActivation,
    checkerboard_mask,
    from_integers,
    to_integers,
)
from jaxcomp.nets.resample import depth_to_space
from tests.checks import check_integer_net, check_same_everywhere, float_primitives
from tests.nets.cases import AS_USUAL, random_variables

WIDE = FixedPoint(16, 8)
OUT = FixedPoint(20, 9)


class Decoder(nn.Module):
    """Every kind of integer layer, on the way from latents to something like pixels."""

    @nn.compact
    def __call__(self, x):
        y = IntegerConv(12, relu=True)(x)
        y = IntegerConv(12, (5, 5), mask=checkerboard_mask(5), relu=True)(y)
        y = IntegerConv(12, (1, 3), groups=12)(y)
        y = add(TableActivation(nn.gelu)(y), x, FEATURES)
        y = IntegerConv(32, groups=2, target=WIDE, weight_bits=16)(y)
        y = rescale(depth_to_space(y, 2), WIDE, FixedPoint(16, 6))
        y = IntegerConv(8, (1, 1), source=FixedPoint(16, 6), weight_bits=16)(y)
        return IntegerDense(5, target=OUT)(y)


@pytest.fixture(scope="module")
def decoder():
    x = np.random.default_rng(0).normal(0, 2, (8, 5, 7, 12)).astype(np.float32)
    return random_variables(Decoder(), x), x


def test_floats_of_integers_make_them_again(decoder):
    variables, x = decoder
    integers = to_integers(Decoder(), variables, x)
    params = from_integers(Decoder(), integers, x)
    assert jax.tree.structure(params) == jax.tree.structure({"params": variables["params"]})
    again, whole = to_integers(Decoder(), params, x), quantise(x, FEATURES)
    apply = jax.jit(Decoder().apply)
    np.testing.assert_array_equal(apply(again, whole), apply(integers, whole))


def test_the_law(decoder):
    variables, x = decoder
    integers, y = check_integer_net(Decoder(), variables, x, source=FEATURES, target=OUT)
    usual = jax.jit(Decoder().apply, compiler_options=AS_USUAL)
    np.testing.assert_array_equal(usual(integers, quantise(x, FEATURES)), y)
    assert len(np.unique(y)) > 500
    dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(integers)}
    assert dtypes == {"int8", "int16", "int32"}


def test_floats_would_not_do(decoder):
    """What the integers are for: the same network in float32 breaks its promise."""
    _, x = decoder
    net = nn.Sequential([nn.Conv(24, (5, 5)), nn.relu, nn.Conv(24, (5, 5)), nn.relu, nn.Dense(5)])
    variables = random_variables(net, x)
    assert float_primitives(net.apply, variables, x) >= {"conv_general_dilated", "dot_general"}
    with pytest.raises(AssertionError):
        check_same_everywhere(net.apply, variables, x)


def test_only_shapes_of_the_example_matter(decoder):
    variables, x = decoder
    once, again = (to_integers(Decoder(), variables, e) for e in (x, np.zeros_like(x[:1])))
    chex.assert_trees_all_equal(once, again)
    under_jit = jax.jit(lambda v: Decoder().apply(v, x, mutable=["integers"])[1])(variables)
    chex.assert_trees_all_equal(once, under_jit)


def test_equal_networks_share_a_conversion_that_keeps_no_arrays():
    traces = []

    class Net(nn.Module):
        features: int = 3
        table: Any = None  # a network that holds an array cannot be hashed

        @nn.compact
        def __call__(self, x, deep=True):
            traces.append(x.shape)
            y = IntegerDense(self.features)(x if self.table is None else x + self.table)
            return IntegerDense(2)(y) if deep else y

    def convert(variables, *fields, **options):
        return to_integers(Net(*fields), variables, example, **options)["integers"]

    example = np.ones((2, 5), np.float32)
    first, second = (random_variables(Net(), example, seed=seed) for seed in range(2))
    traces.clear()
    once, other = convert(first), convert(second)
    assert len(traces) == 1
    assert (once["IntegerDense_0"]["weights"] != other["IntegerDense_0"]["weights"]).any()
    # Other options and fields are other programs.
    assert list(once) == ["IntegerDense_0", "IntegerDense_1"]
    assert list(convert(first, deep=False)) == ["IntegerDense_0"]
    wide = random_variables(Net(4), example)
    assert convert(wide, 4)["IntegerDense_0"]["weights"].shape == (5, 4)
    table = np.ones(5, np.float32)
    chex.assert_trees_all_equal(convert(first, 3, table), once)
    alive = weakref.ref(table)
    del table
    gc.collect()
    assert alive() is None


def test_one_trace_for_new_weights(decoder):
    variables, x = decoder
    chex.clear_trace_counter()
    apply = jax.jit(chex.assert_max_traces(lambda *args: Decoder().apply(*args), n=1))
    integers = to_integers(Decoder(), variables, x)
    apply(integers, quantise(x, FEATURES))
    apply(jax.tree.map(lambda a: a + 0, integers), quantise(x + 1, FEATURES))


def test_training_through_the_rounding_reaches_a_teacher():
    x = jax.random.normal(jax.random.key(0), (4, 12, 12, 6))
    teacher = nn.Sequential([nn.Conv(16, (3, 3)), nn.relu, nn.Conv(3, (3, 3))])
    wanted = jax.jit(teacher.apply)(random_variables(teacher, x), x)
    net = nn.Sequential([IntegerConv(32, relu=True), IntegerConv(3, target=WIDE)])
    variables = random_variables(net, x, seed=1)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def error(variables):
        return jnp.square(net.apply(variables, x) - wanted).mean()

    @jax.jit
    def step(variables, state):
        value, gradient = jax.value_and_grad(error)(variables)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(variables, updates), state, value

    state = optimizer.init(variables)
    first = error(variables)
    for _ in range(150):
        variables, state, value = step(variables, state)
    assert value < 0.03 * first
    integers = to_integers(net, variables, x)
    y = jax.jit(net.apply)(integers, quantise(x, FEATURES)) * WIDE.step
    assert jnp.square(y - wanted).mean() < 0.03 * first


def test_a_fine_grid_is_the_float_layer():
    """The identity limit: with 16 bits everywhere the layer is flax's."""
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 5))
    fine = FixedPoint(16, 12)
    net = IntegerConv(7, source=fine, target=fine, weight_bits=16)
    variables = random_variables(net, x)
    y = jax.jit(nn.Conv(7, (3, 3)).apply)(variables, x)
    np.testing.assert_allclose(jax.jit(net.apply)(variables, x), y, atol=2e-3)
    coarse = jax.jit(IntegerConv(7).apply)(variables, x)
    assert np.abs(coarse - y).max() > 1e-2


def test_masked_taps_see_nothing():
    net = IntegerConv(4, (5, 5), mask=checkerboard_mask(5))
    x = jnp.zeros((1, 9, 9, 3), jnp.int8)
    variables = random_variables(net, x)
    integers = to_integers(net, variables, x)
    apply = jax.jit(net.apply)
    moved = apply(integers, x.at[0, 4, 4].set(100)) != apply(integers, x)
    seen = np.asarray(moved.any(-1))[0]
    rows, columns = np.nonzero(seen)
    assert len(rows) == 12 and ((rows + columns) % 2 == 1).all()


@pytest.mark.parametrize(("groups", "bits"), [(1, 8), (12, 8), (3, 16)])
def test_valid_is_the_inside(decoder, groups, bits):
    _, x = decoder
    net = IntegerConv(12, (3, 5), groups=groups, weight_bits=bits)
    integers = to_integers(net, random_variables(net, x), x)
    whole = quantise(x, FEATURES)
    apply = jax.jit(net.apply, static_argnames="valid")
    inside = apply(integers, whole, valid=True)
    np.testing.assert_array_equal(inside, apply(integers, whole)[:, 1:-1, 2:-2])
    with pytest.raises(JaxcompError, match="train on whole images"):
        net.apply(random_variables(net, x), x, valid=True)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_few_rows(batch):
    net = IntegerDense(9, target=WIDE)
    x = np.random.default_rng(0).normal(size=(batch, 33)).astype(np.float32)
    variables = random_variables(net, x)
    y = jax.jit(net.apply)(to_integers(net, variables, x), quantise(x, FEATURES))
    np.testing.assert_array_equal(y * WIDE.step, jax.jit(net.apply)(variables, x))


def test_refusals(decoder):
    variables, x = decoder
    with pytest.raises(JaxcompError, match="to_integers"):
        Decoder().apply(variables, quantise(x, FEATURES))
    with pytest.raises(JaxcompError, match="to_integers"):
        TableActivation(nn.gelu).apply({}, quantise(x, FEATURES))
    with pytest.raises(JaxcompError, match="expected finite"):
        to_integers(Decoder(), jax.tree.map(lambda p: p * np.nan, variables), x)
    with pytest.raises(JaxcompError, match="without any"):
        to_integers(nn.Dense(3), random_variables(nn.Dense(3), x), x)
    with pytest.raises(JaxcompError, match="multiple of 5"):
        IntegerConv(5, groups=5).init(jax.random.key(0), x)
    with pytest.raises(JaxcompError, match="2 to 16 bits"):
        IntegerDense(3, source=FixedPoint(20, 4)).init(jax.random.key(0), x)
    integers = to_integers(Decoder(), variables, x)["integers"]
    with pytest.raises(JaxcompError, match="expected integer weights"):
        IntegerConv(7).apply({"integers": integers["IntegerConv_0"]}, quantise(x, FEATURES))
    assert integer.COLLECTION == "integers"
