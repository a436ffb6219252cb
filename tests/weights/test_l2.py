"""l2: the count of bits is that of the file, and training under it beats what knows no bits."""

import importlib
import math

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.coding.coded_array import write_array
from jaxcomp.io.weights_file import weights_bytes
from jaxcomp.weights.entropy_constrained import entropy_constrained
from jaxcomp.weights.l2 import GRID, counted_bits, l2

pytestmark = pytest.mark.usefixtures("quick_file")

MODULE = importlib.import_module("jaxcomp.weights.l2")
RNG = np.random.default_rng(0)
SHAPES = {"first": (32, 128), "middle": (128, 128), "last": (128, 32)}
PARAMS = {
    name: jnp.asarray(RNG.standard_t(5, size=shape) / math.sqrt(shape[0]), jnp.float32)
    for name, shape in SHAPES.items()
}
SIZE = sum(w.size for w in PARAMS.values())
MIX = RNG.normal(size=(32, 32)) * RNG.lognormal(size=32) / 8
BATCHES = [jnp.asarray(RNG.normal(size=(64, 32)) @ MIX, jnp.float32) for _ in range(16)]
UNSEEN = jnp.asarray(RNG.normal(size=(1024, 32)) @ MIX, jnp.float32)
TARGET = 2.2


def model(w, x):
    """The middle holds most weights and matters least to the outputs."""
    x = jnp.tanh(x @ w["first"])
    return 3 * (x + 0.3 * jnp.tanh(x @ w["middle"])) @ w["last"]


@jax.jit
def distance(small):
    return jc.measures.kl_nats(model(PARAMS, UNSEEN), jc.lift(model)(small, UNSEEN))


def trained(bits):
    return l2(model, PARAMS, BATCHES, bits_per_weight=bits, axes=-2, steps=(60, 60))


def coded_bits(tree):
    """What the codes and the steps take in the file, per weight, with tables and heads of lanes."""
    parts = [write_array(np.asarray(part))[1] for part in jax.tree.leaves(tree)]
    nbytes = sum(len(plane) for planes in parts for plane in planes)
    assert nbytes < len(weights_bytes(tree)) < nbytes + 700
    return 8 * nbytes / SIZE


def entropy(levels):
    share = np.unique(levels, return_counts=True)[1] / levels.size
    return -(share * np.log2(share)).sum() * levels.size


@pytest.fixture(scope="module")
def small():
    return trained(TARGET)


@pytest.mark.parametrize("draw", ["normal", "laplace", "heavy"])
def test_the_count_is_the_entropy_of_rounded_codes_and_its_slope_how_that_grows(draw):
    x = {
        "normal": RNG.normal(size=1 << 15),
        "laplace": RNG.laplace(size=1 << 15),
        "heavy": RNG.standard_t(2.5, size=1 << 15),
    }[draw]

    def exact(factor):
        return entropy(np.clip(np.rint(factor * x), -127, 127))

    count = jax.jit(jax.value_and_grad(lambda factor: counted_bits(factor * x)))
    for factor in (0.4, 0.7, 1.0, 2.0, 6.0):  # 1 to 5 bits
        bits, slope = count(jnp.float32(factor))
        assert abs(bits / exact(factor) - 1) < 0.002
        if factor >= 0.7:
            growth = (exact(1.04 * factor) - exact(factor / 1.04)) / (1.04 - 1 / 1.04) / factor
            assert 0.85 < slope / growth < 1.15


def test_gradients_are_those_of_the_formula_for_what_is_looked_up_and_what_is_counted():
    c, delta = RNG.normal(size=60) * 2, 0.4

    def mass(q, c):  # the paper's, each queried code against every counted one
        def ramp(u):
            return (1 + np.sin(np.pi / 2 * np.clip(u, -1, 1))) / 2

        upper, lower = [ramp((q[:, None] + side - c) / delta) for side in (0.5, -0.5)]
        return (upper - lower).mean(1)

    def bits(q, c):
        return -np.log2(mass(q, c)).sum()

    q, tiny = np.rint(c), 1e-5
    expected = [
        (bits(q + d, c) - bits(q - d, c) + bits(q, c + d) - bits(q, c - d)) / (2 * tiny)
        for d in tiny * np.eye(60)
    ]
    counted = jax.jit(jax.value_and_grad(lambda c: counted_bits(c, width=delta)))
    found, gradient = counted(jnp.asarray(c, jnp.float32))
    np.testing.assert_allclose(found, bits(q, c), rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-3)
    assert np.abs(expected).max() > 1


def test_the_file_is_on_target_and_less_is_lost_than_by_rounding_to_as_large_a_file(small):
    assert abs(coded_bits(small) / TARGET - 1) < 0.015
    for method in (entropy_constrained(step=0.87), jc.weights.rtn(jc.formats.INT3_G32)):
        other = jc.weights.compress(PARAMS, method, axes=-2)
        assert len(weights_bytes(other)) >= len(weights_bytes(small))
        assert distance(small) < 0.5 * distance(other)
    # What matters gets more bits of the same training.
    each = {name: entropy(np.asarray(leaf.codes)) / leaf.size for name, leaf in small.items()}
    assert each["last"] > each["middle"] + 1


def test_less_is_lost_than_by_the_same_training_without_the_count(small, monkeypatch):
    monkeypatch.setattr(MODULE, "counted_bits", lambda c: jax.lax.stop_gradient(counted_bits(c)))
    monkeypatch.setattr(MODULE, "RATES", {"values": 0.02, "steps": 0.0, "edges": 0.0})
    without = trained(TARGET)
    assert abs(coded_bits(without) / TARGET - 1) < 0.015
    assert distance(small) < 0.6 * distance(without)


def test_stacks_have_a_step_for_each_matrix_and_any_target_is_met():
    stack = jnp.stack([PARAMS["middle"], 10 * PARAMS["middle"]])

    def both(p, x):
        return p["act"](jax.lax.scan(lambda x, w: (x @ w @ w.T, None), x, p["w"])[0])

    params = {"w": stack, "act": jnp.tanh}  # as Equinox modules hold functions
    stats = jc.observe(both, params, [jnp.ones((2, 128))], statistic=None)
    for bits in (1.0, 5.0):
        options = dict(bits_per_weight=bits, stats=stats, steps=(0, 0))
        leaf = l2(both, params, [jnp.ones((2, 128))], **options)["w"]
        assert leaf.format == jc.formats.quantize(PARAMS["middle"], GRID).format
        first, second = np.asarray(leaf.scales, np.float32)
        assert leaf.scales.shape == (2, 1, 1) and abs(second / first - 10) < 0.1
        expected = bits * stack.size
        assert abs(1.012 * entropy(np.asarray(leaf.codes)) + 720 - expected) < 0.005 * expected


@pytest.mark.parametrize(
    "options, says",
    [
        ({"bits_per_weight": 7}, "bits_per_weight from 0 to 6, .* got 7"),
        # 3 tables of 720 bits for 24,576 weights.
        ({"bits_per_weight": 0.08}, "above 0.0879, which tables and heads of 3 .* got 0.08; raise"),
        ({"batches": []}, "expected batches, got none"),
        ({"steps": 10}, "steps, a pair of whole numbers >= 0, got 10"),
        ({"steps": (10,)}, r"got \(10,\); pass \(300, 300\)"),
        ({"steps": (10, -1)}, r"got \(10, -1\)"),
        ({"steps": (0, 0), "batches": [BATCHES[0], jnp.nan * BATCHES[1]]}, "finite .* got nan"),
    ],
)
def test_bad_input_is_named(options, says, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    given = {"batches": BATCHES, "bits_per_weight": 2, "axes": -2, **options}
    with pytest.raises(jc.UnsupportedInput, match=says):
        l2(model, PARAMS, given.pop("batches"), **given)
