"""bias_tuning: better outputs on data that it did not see, and packed weights bit for bit."""

import jax
import numpy as np
import optax
import pytest

import jaxcomp as jc
from jaxcomp.weights import bias_tuning

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32) if shape else np.float32(RNG.normal())


PARAMS = jax.device_put(
    {
        "first": normal(16, 64) / 4,
        "last": normal(64, 8) / 4,
        "bias": normal(64) / 4,
        "gain": 1 + normal(64) / 4,
        "scale": normal(),
    }
)
SMALL = jc.weights.compress(PARAMS, jc.formats.INT2, axes=-2)
SHIFT = normal(16)
BATCHES = [jax.device_put(normal(64, 16) + SHIFT) for _ in range(8)]
UNSEEN = jax.device_put(normal(512, 16) + SHIFT)


def model(w, x):
    x = jax.nn.relu(x @ w["first"] + w["bias"])
    return (x * w["gain"]) @ w["last"] * w["scale"]


@jax.jit
def distance(small):
    return jc.measures.kl_nats(model(PARAMS, UNSEEN), jc.lift(model)(small, UNSEEN))


def tuned(**options):
    return bias_tuning(model, SMALL, BATCHES, reference=PARAMS, **{"steps": 200, **options})


@pytest.mark.usefixtures("quick")
def test_outputs_come_nearer_on_other_data_and_packed_weights_stay_bit_for_bit():
    found = tuned()
    assert distance(found) < 0.5 * distance(SMALL)
    for name in ("first", "last"):
        assert found[name] is SMALL[name]
    assert found["scale"] is SMALL["scale"]  # no axis: not among those of one
    for name in ("bias", "gain"):
        assert found[name].dtype == SMALL[name].dtype and (found[name] != SMALL[name]).any()
    assert jc.tree.nbytes(found) == jc.tree.nbytes(SMALL)


def test_what_moves_is_chosen_and_no_step_moves_nothing():
    found = tuned(where=lambda path, x: path == "scale", steps=2)
    assert found["scale"] != SMALL["scale"] and found["bias"] is SMALL["bias"]
    jax.tree.map(np.testing.assert_array_equal, tuned(steps=0), SMALL)
    still = tuned(optimizer=optax.sgd(0.0), steps=1)
    jax.tree.map(np.testing.assert_array_equal, still, SMALL)
    with pytest.raises(jc.UnsupportedInput, match="project and seed as options, got rest; call"):
        tuned(rest={}, steps=1)
    with pytest.raises(jc.UnsupportedInput, match=r"none selected; there are bias \(64,\)"):
        tuned(where=lambda path, x: x.ndim == 3)
