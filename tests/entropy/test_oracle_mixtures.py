"""Student-t, mixtures, indexed and sparse models against tensorflow-compression's.

Probabilities within 3e-7; bits within 3e-6 plus as much of them.
"""

import numpy as np
import pytest

from jaxcomp import entropy
from jaxcomp.coding import range_coder
from tests.entropy.test_oracle_densities import FAMILIES, check_bits
from tests.oracle.reference import load

pytestmark = pytest.mark.usefixtures("quick_file")

MODELS = load("models")
MIXTURES = {"normal_mixture": "normal", "logistic_mixture": "logistic"}


def test_student_t_masses():
    """Their noise adapter around TensorFlow Probability's distribution."""
    case = MODELS["student_t"]

    def standard(low, high):
        return entropy.student_t_log_mass(low, high, float(case["df"]))

    scale, loc = np.float32(case["scale"]), np.float32(case["loc"])
    bits = entropy.noisy_bits(entropy.scaled(standard), np.float32(case["x"]), scale, loc)
    np.testing.assert_allclose(np.exp2(-np.asarray(bits, np.float64)), case["prob"], atol=3e-7)


def params_of(case):
    return {
        "logits": np.log(np.float32(case["weight"])),
        "mean": np.float32(case["loc"]),
        "log_scale": np.log(np.float32(case["scale"])),
    }


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures(name):
    case = MODELS[name]
    log_mass = FAMILIES[MIXTURES[name]]
    model = entropy.mixture(3, components=2, log_mass=log_mass)
    params = params_of(case)
    x = np.broadcast_to(np.float32(case["x"]), (len(case["x"]), 3))
    check_bits(model.bits(params, x), case)
    total = np.asarray(model.bits(params, np.float32(case["y_hat"])), np.float64).sum()
    np.testing.assert_allclose(total, case["y_bits"], rtol=1e-6)


@pytest.mark.parametrize("name", MIXTURES)
def test_tails_of_mixtures_hold_what_they_should(name):
    """At their tails our mass is theirs; their search stops within 1e-3 of a unit."""
    case = MODELS[name]
    moved = entropy.mixed(FAMILIES[MIXTURES[name]])
    params = params_of(case)

    def log_mass(low, high):
        return moved(low, high, params["logits"], np.exp(params["log_scale"]), params["mean"])

    tails = entropy.find_tails(log_mass, 3, 2.0**-8)
    for ours, theirs in zip(tails, (case["lower_tail"], case["upper_tail"]), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
    inside = np.exp(np.asarray(log_mass(*tails), np.float64))
    np.testing.assert_allclose(inside, 1 - 2.0**-8, atol=2e-6)


def test_indexed_mixture():
    """Three indexes choose means and weights; rows in their order, strings decoded."""
    case = MODELS["indexed_logistic_mixture"]
    moved = entropy.mixed(entropy.logistic_log_mass)

    def parameters(i):
        return (i[..., 2:3] - 0.5) * np.float32([-1, 1]), np.float32(0.7), i[..., 0:2] * 2 - 3

    model = entropy.indexed(moved, (4, 3, 2), parameters)
    indexes = np.int32(case["index"])
    bits = model.bits({}, np.float32(case["y_hat"]), indexes)
    np.testing.assert_allclose(np.asarray(bits, np.float64).sum(), case["bits"], rtol=1e-6)
    rows = np.asarray(model.index({}, indexes.shape[:1], indexes))
    decoded = range_coder.decode(
        case["cdf"], case["string"].tobytes(), rows, offset=case["cdf_offset"]
    )
    np.testing.assert_array_equal(decoded, case["y_hat"])
    tables = model.tables({})
    assert len(tables.offset) == len(case["cdf_offset"]) == 24


def test_universal_indexed_bits():
    case = MODELS["universal_indexed"]
    scale = np.float32(case["scales"])[case["index"][:, 0]]
    moved = entropy.scaled(entropy.gaussian_log_mass)
    bits = entropy.noisy_bits(moved, np.float32(case["y_hat"]), scale)
    np.testing.assert_allclose(np.asarray(bits, np.float64).sum(), case["bits"], rtol=1e-6)


def test_power_law_penalty():
    case = MODELS["power_law"]
    ours = entropy.power_law_penalty(np.float32(case["y"]), float(case["alpha"]))
    np.testing.assert_allclose(np.asarray(ours).sum(axis=1), case["penalty"], rtol=2e-6)
