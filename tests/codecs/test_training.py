"""A step lowers the loss it states, and depends on the seed and its number alone."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.base import Codec
from jaxcomp.codecs import training
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
