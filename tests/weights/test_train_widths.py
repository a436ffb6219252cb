"""train_widths: one store, whose views at few bits lose less than before, in the same bytes."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.weights import at_bits, double_rounding
from jaxcomp.weights.train_widths import Moving, train_widths, view

RNG = np.random.default_rng(0)
SHAPES = {"first": (32, 128), "middle": (128, 128), "last": (128, 32)}
PARAMS = {
    name: jnp.asarray(RNG.standard_t(5, size=shape) / math.sqrt(shape[0]), jnp.float32)
    for name, shape in SHAPES.items()
} | {"act": jnp.tanh}  # as Equinox modules hold functions
STORE = jc.weights.compress(PARAMS, double_rounding(), axes=-2)
MIX = RNG.normal(size=(32, 32)) * RNG.lognormal(size=32) / 8
BATCHES = [jnp.asarray(RNG.normal(size=(64, 32)) @ MIX, jnp.float32) for _ in range(16)]
UNSEEN = jnp.asarray(RNG.normal(size=(1024, 32)) @ MIX, jnp.float32)


def model(w, x):
    x = w["act"](x @ w["first"])
    return 3 * (x + 0.3 * jnp.tanh(x @ w["middle"])) @ w["last"]


@eqx.filter_jit
def distance(small):
    return jc.measures.kl_nats(model(PARAMS, UNSEEN), jc.lift(model)(small, UNSEEN))


def losses(store):
    return {bits: float(distance(at_bits(store, bits))) for bits in (2, 3, 4, 8)}


@functools.cache
def trained():
    return train_widths(model, STORE, BATCHES, reference=PARAMS)


@pytest.mark.usefixtures("quick")
def test_views_of_few_bits_lose_less_in_the_same_bytes_and_eight_stay_the_best():
    before, after = losses(STORE), losses(trained())
    assert jc.tree.nbytes(trained()) == jc.tree.nbytes(STORE)
    assert jax.tree.structure(trained()) == jax.tree.structure(STORE)
    assert after[2] < 0.8 * before[2] and after[3] < 0.85 * before[3] and after[4] < 0.9 * before[4]
    assert after[8] < 0.05 * after[4]


GROUPS = jc.formats.INT8._replace(group=32, pad=True)


@pytest.mark.parametrize("format", [jc.formats.INT8, GROUPS], ids=str)
def test_what_is_trained_is_what_a_view_will_be(format):
    w = jnp.asarray(RNG.normal(size=(100, 3, 16)), jnp.float32)
    leaf = double_rounding(format).compress(w, None, (-3,))
    moving = Moving(leaf.codes / 127, jnp.zeros(leaf.scales.shape))
    seen = jax.jit(lambda drop: view(moving, leaf.scales, drop, leaf))
    for bits in (2, 5, 7, 8):
        np.testing.assert_array_equal(seen(2.0 ** (8 - bits)), at_bits(leaf, bits).dense())


def test_other_leaves_stay_and_no_step_moves_nothing():
    other = jc.weights.compress(PARAMS["last"], jc.formats.INT4, axes=-2)
    mixed = {**STORE, "last": other}
    options = dict(reference=PARAMS, bits=(3,), rate=0.01)
    found = train_widths(model, mixed, BATCHES[:1], steps=1, **options)
    assert found["last"] is other and (found["first"].codes != STORE["first"].codes).any()
    still = train_widths(model, STORE, BATCHES[:1], steps=0, **options)
    jax.tree.map(np.testing.assert_array_equal, still, STORE)


def test_bad_input_is_named(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    for options, says in (
        ({"bits": ()}, r"a tuple of some from 2 to 8, and batches, got \(\) and 16"),
        ({"bits": 4}, r"got 4 and 16 batches; .* bits=\(4,\)"),
        ({"batches": []}, "and 0 batches"),
        ({"bits": (1, 8)}, "expected bits from 2 to 8, a whole number, got 1"),
        ({"bits": (4.0,)}, "got 4.0"),
        ({"balance": float("nan")}, "balance"),
    ):
        given = {"batches": BATCHES, **options}
        with pytest.raises(jc.UnsupportedInput, match=says):
            train_widths(model, STORE, given.pop("batches"), reference=PARAMS, **given)
    with pytest.raises(jc.UnsupportedInput, match="none; compress with"):
        train_widths(model, PARAMS, BATCHES, reference=PARAMS)
    turned = jc.weights.compress(PARAMS, jc.weights.hadamard(double_rounding()), axes=-2)
    with pytest.raises(jc.UnsupportedInput, match="first: .* in another; train before"):
        train_widths(model, turned, BATCHES, reference=PARAMS)
