"""A step lowers the loss it states, and depends on the seed and its number alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.base import Codec, UnsupportedInput
from jaxcomp.codecs import training
from jaxcomp.codecs.latent_codec import Design
from jaxcomp.codecs.latent_coding import latent_codec
from jaxcomp.codecs.quality import step_of


def scaling() -> Codec:
    """A codec of one parameter: images times it, at a rate that grows with it."""

    def apply(params, images, *, key, quality):
        noise = jax.random.normal(key, images.shape[:1])
        found = images * params["gain"]
        return found, 1000.0 * jnp.abs(params["gain"]) + noise * 1e-3

    return Codec(lambda key: {"gain": jnp.float32(0.2)}, apply, None, None, "scaling")


def run(count, *, seed=1, state=None):
    codec, transform = scaling(), training.optimizer(0.05, 200)
    state = training.begin(codec, transform, seed) if state is None else state
    step = training.make_step(codec, transform, seed)
    first, begun = None, int(state.step)
    for number in range(begun, begun + count):
        images = np.random.default_rng(number).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
        state, measures = step(state, images)
        first = measures if first is None else first
    return state, first, measures


def test_training_lowers_its_loss_and_resumes_bit_for_bit():
    whole, first, last = run(100)
    assert float(last["loss"]) < 0.7 * float(first["loss"]) and int(whole.step) == 100
    half, _, _ = run(50)
    resumed, _, _ = run(50, state=jax.tree.map(jnp.copy, half))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    assert float(whole.average["gain"]) != float(whole.params["gain"])
    other, _, _ = run(100, seed=2)
    assert float(other.params["gain"]) != float(whole.params["gain"])


def test_lambda_is_what_makes_a_step_optimal():
    # -d(step**2 / 12) / d(bits) of a coefficient, at -1 bit per halving; half of it, by design.
    quality = jnp.asarray([10.0, 50.0, 90.0])
    slope = 2 * np.log(2) * np.asarray(step_of(quality)) ** 2 / 12 / 3
    np.testing.assert_allclose(training.rate_weight(quality) * slope, 2, rtol=0.01)


def traced(precision):
    """A step of a learned codec, from shapes alone."""
    codec = latent_codec(Design("mean_scale", (24,), side=8, width=16))
    transform = training.optimizer(0.1, 9)
    state = jax.eval_shape(lambda: training.begin(codec, transform, 1))
    step = training.make_step(codec, transform, 1, precision=precision)
    return step.trace(state, jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.uint8))


def products(step, platform):
    """(operands and results, whether float32 is asked for) of a step's dots and convolutions."""
    text = step.lower(lowering_platforms=(platform,)).as_text()
    lines = [x for x in text.splitlines() if "dot_general" in x or "stablehlo.convolution" in x]
    return [(line.rsplit(" : ", 1)[1], "HIGHEST" in line) for line in lines]


def test_a_step_multiplies_in_the_precision_it_is_told():
    steps = traced("bfloat16"), traced("float32")
    for platform in ("cuda", "tpu"):
        mixed, exact = (products(step, platform) for step in steps)
        assert len(mixed) == len(exact)
        assert not [types for types, _ in exact if "bf16" in types]
        assert all(highest for types, highest in exact + mixed if "xf32>, tensor" in types)
        wide = [types for types, _ in mixed if "bf16>, tensor" in types]
        assert len(wide) > 8
        assert not [types for types in wide if "x3xbf16" in types]  # colours
        whole = [[types for types, _ in each if "xi8>" in types] for each in (mixed, exact)]
        assert whole[0] == whole[1] != []


def test_precisions_are_named():
    with pytest.raises(UnsupportedInput, match="float32 or bfloat16"):
        training.make_step(scaling(), training.optimizer(0.1, 9), 1, precision="half")
    assert training.usual_precision() == "float32"  # tests run on a CPU


def test_a_run_begins_with_parameters():
    state = training.begin(scaling(), training.optimizer(0.1, 9), 1, {"gain": jnp.float32(3)})
    assert float(state.params["gain"]) == float(state.average["gain"]) == 3 and int(state.step) == 0
