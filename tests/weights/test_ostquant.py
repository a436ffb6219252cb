"""ostquant: a moved model says the same in floats, and more of it survives rounding."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.lift.symmetry import symmetries
from jaxcomp.measures.kl_nats import kl_nats
from jaxcomp.weights import activation, compress, hadamard, ostquant, rtn
from jaxcomp.weights.ostquant import _rounding, following
from tests.compiling import optimised

SIZE, HIDDEN, CLASSES, LAYERS = 64, 96, 24, 2
QUICK = {"xla_backend_optimization_level": 0}  # each program runs once
INT4 = jc.formats.INT4_G32._replace(pad=True)


def normed(h, gain):
    return h * jax.lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + 1e-6) * gain


def model(params, x):
    """Two gated layers on a residual stream, as of a language model without its attention."""

    def block(h, layer):
        n = normed(h, layer["gain"])
        return h + (jax.nn.silu(n @ layer["gate"]) * (n @ layer["up"])) @ layer["down"], None

    h, _ = jax.lax.scan(block, x @ params["embed"], params["layers"])
    return normed(h, params["gain"]) @ params["head"]


def make_params(seed=0):
    """Four channels of the stream are 8 times as large as the others, and read as much smaller."""
    rng = np.random.default_rng(seed)
    large = np.where(np.arange(SIZE) % 16 == 3, 8.0, 1.0)

    def weight(*shape):
        return rng.normal(size=shape) / np.sqrt(shape[-2])

    def gain(*shape):
        return rng.uniform(0.5, 1.5, shape)

    layers = {
        "gain": gain(LAYERS, SIZE),
        "gate": weight(LAYERS, SIZE, HIDDEN) / large[:, None],
        "up": weight(LAYERS, SIZE, HIDDEN) / large[:, None],
        "down": weight(LAYERS, HIDDEN, SIZE) * large,
    }
    head = 6 * weight(SIZE, CLASSES) / large[:, None]
    params = {"embed": weight(16, SIZE) * large, "layers": layers, "gain": gain(SIZE), "head": head}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


def make_batches(seed, count):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=(64, 16)), jnp.float32) for _ in range(count)]


PARAMS, BATCHES = make_params(), make_batches(1, 8)
TEST = jnp.concatenate(make_batches(2, 8))
RECORD = jc.observe(model, PARAMS, BATCHES[:1], statistic=None)
ROUNDED = activation(rtn(INT4), "int4")
run = jax.jit(model)


@pytest.fixture(scope="module")
def moved():
    """Params by steps: 0 of them leave the Hadamard rotations that learning starts from."""
    found = symmetries(model, PARAMS, BATCHES[0][:2])
    options = dict(weights=INT4, activations="int4", symmetries=found)
    params = {**PARAMS, "act": jax.nn.silu}  # as Equinox modules hold functions
    with optimised(False):
        made = {n: ostquant(model, params, BATCHES, steps=n, **options) for n in (0, 100)}
    assert all(params.pop("act") is jax.nn.silu for params in made.values())
    return made


def lost(params, method=ROUNDED):
    """KL to the float model, of the packed model, where training did not look."""
    small = compress(params, method, stats=RECORD)
    got = jax.jit(jc.lift(model, strict=True), compiler_options=QUICK)(small, TEST)
    return float(kl_nats(run(PARAMS, TEST), got))


def test_is_the_same_function_in_floats(moved):
    want = run(PARAMS, TEST)
    for params in moved.values():
        assert jnp.abs(run(params, TEST) - want).max() < 1e-5 * jnp.abs(want).max()
    chex.assert_trees_all_equal_shapes_and_dtypes(*moved.values(), PARAMS)
    weights = [params["layers"]["gate"] for params in (PARAMS, *moved.values())]
    for one, other in itertools.combinations(weights, 2):
        assert jnp.abs(one - other).max() > 0.1


def test_learning_loses_less_than_a_rotation_and_that_less_than_rounding_alone(moved):
    plain, rotated, learned = lost(PARAMS), lost(moved[0]), lost(moved[100])
    assert rotated < 0.75 * plain  # measured: 0.63, 0.36 and 0.22
    assert learned < 0.75 * rotated


@pytest.mark.parametrize("format", [INT4, jc.formats.UINT3_G32, jc.formats.NF4])
def test_rounding_has_the_values_of_packed_leaves_and_a_gradient_that_knows_of_ranges(format):
    w = jnp.asarray(np.random.default_rng(3).normal(size=(8, 64)), jnp.float32)
    rule, small = jax.jit(following(format)), compress({"w": w}, format, axes=-1)
    np.testing.assert_array_equal(rule(w), small["w"].dense())
    # round(t w) is t round(w): so is its derivative in t, which is w where errors stay as they are.
    value, slope = jax.jvp(rule, (w,), (w,))
    np.testing.assert_allclose(slope, value, atol=1e-6)


def test_what_is_rotated_at_run_time_is_trained_as_it_will_run():
    online = _rounding(model, INT4, "int4", {"layers/down"}, {"layers/up", "layers/gate", "head"})
    turned = hadamard(INT4, activation="int4")
    small = compress(
        PARAMS,
        lambda path, w: turned if path == "layers/down" else ROUNDED,
        stats=RECORD,
        where=lambda path, w: path != "embed" and RECORD[path].multiplied,
    )
    got = jax.jit(online)(PARAMS, TEST)
    want = jax.jit(jc.lift(model))(small, TEST)
    np.testing.assert_allclose(got, want, atol=2e-3 * float(jnp.abs(want).max()))


def test_bad_input_is_refused_by_name():
    with pytest.raises(jc.UnsupportedInput, match="weights or activations"):
        ostquant(model, PARAMS, BATCHES, weights=None)
    with pytest.raises(jc.UnsupportedInput, match="a batch, got none"):
        ostquant(model, PARAMS, [], weights=INT4)
    with pytest.raises(jc.UnsupportedInput, match="symmetries of fn, got none"):
        ostquant(lambda p, x: x @ p, jnp.eye(4), [jnp.ones((2, 4))], weights=INT4)
