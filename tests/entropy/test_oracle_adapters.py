"""Rounded, soft-rounded and dithered densities against tensorflow-compression's.

Probabilities within 2e-6 (1e-5 after soft rounding, whose inverse is steep); offsets 1e-5, 3e-4
where the reference descends a gradient and stops early.
"""

import numpy as np
import pytest

from jaxcomp import entropy
from jaxcomp.coding import build_tables, range_coder
from tests.entropy.test_oracle_densities import FACTORIZED, FAMILIES, log_mass_of, rows_of, weights
from tests.oracle.reference import load

pytestmark = pytest.mark.usefixtures("quick_file")

MODELS = load("models")
ADAPTED = {
    "rounded_normal": entropy.rounded,
    "soft_rounded_normal": lambda log_mass: entropy.soft_rounded(log_mass, 5.0),
    "rounded_deep_factorized": entropy.rounded,
    "soft_rounded_deep_factorized": lambda log_mass: entropy.soft_rounded(log_mass, 3.0),
}


def adapted(name):
    """The log_mass of a reference case, its rows on the last axis."""
    case = MODELS[name]
    if "matrices_0" in case:
        params = weights(case)
        return ADAPTED[name](lambda low, high: entropy.factorized_log_mass(params, low, high))
    scale, loc = np.float32(case["scale"]), np.float32(case["loc"])
    moved = ADAPTED[name](entropy.scaled(entropy.gaussian_log_mass))
    return lambda low, high: moved(low, high, scale, loc)


@pytest.mark.parametrize("name", ADAPTED)
def test_masses(name):
    case = MODELS[name]
    x = np.broadcast_to(np.float32(case["x"]), (len(case["x"]), 4))
    bits = np.asarray(entropy.noisy_bits(adapted(name), x), np.float64)
    tolerance = 1e-5 if name.startswith("soft") else 2e-6
    np.testing.assert_allclose(np.exp2(-bits), case["prob"], atol=tolerance, rtol=0)
    likely = case["prob"] > 1e-3
    np.testing.assert_allclose(bits[likely], case["bits"][likely], atol=1e-3)


@pytest.mark.parametrize("name", [*FAMILIES, *FACTORIZED, *ADAPTED])
def test_quantisation_offsets(name):
    if name.startswith("rounded"):  # integers already
        return np.testing.assert_array_equal(MODELS[name]["quantization_offset"], 0)
    log_mass = log_mass_of(name) if name in (*FAMILIES, *FACTORIZED) else adapted(name)
    gap = entropy.quantisation_offset(log_mass, 4) - MODELS[name]["quantization_offset"]
    gap -= np.round(gap)  # one half is minus one half
    assert np.abs(gap).max() < (3e-4 if "factorized" in name else 1e-5)


def test_dithered_bits_and_tables():
    """Universal quantisation: their estimate at their dither, and a table for each level of it."""
    case, levels = MODELS["universal_batched"], int(MODELS[""]["levels"])
    scale, loc = np.float32(case["scale"]), np.float32(case["loc"])
    moved = entropy.scaled(entropy.gaussian_log_mass)
    bits = entropy.noisy_bits(moved, np.float32(case["y_hat"]), scale, loc)
    np.testing.assert_allclose(np.asarray(bits, np.float64).sum(), case["bits"], rtol=1e-6)
    symbols = range_coder.decode(
        case["cdf"], case["string"].tobytes(), case["row"], offset=case["cdf_offset"]
    )
    np.testing.assert_allclose(symbols + case["offset"], case["y_hat"], atol=1e-12)
    dither = (np.arange(levels) + 1) / (levels + 1) - 0.5
    for row, theirs in enumerate(rows_of(case)):
        level, channel = divmod(row, 3)
        values = case["cdf_offset"][row] + np.arange(len(theirs) - 1)
        centres = np.float32(values + dither[level])
        bits = entropy.noisy_bits(moved, centres, scale[channel], loc[channel])
        pmf = np.exp2(-np.asarray(bits, np.float64))
        pmf = np.append(pmf, max(1 - pmf.sum(), 0.0))
        ours = np.asarray(build_tables(pmf, precision=12, escape=True).frequencies)[0]
        assert np.abs(ours.astype(int) - theirs).max() <= 2
