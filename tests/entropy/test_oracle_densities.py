"""Masses, bits, tails and tables against tensorflow-compression, computed in float64 by it.

Tolerances: 2e-7 for a probability; 2e-6 bits plus as much of the bits, hundreds of them in tails;
quantiles 2e-6 plus as much of them, 3e-5 where the reference descends a gradient and stops early.
"""

import numpy as np
import pytest

from jaxcomp import entropy
from jaxcomp.coding import build_tables, range_coder
from tests.oracle.reference import load

pytestmark = pytest.mark.usefixtures("quick_file")

MODELS = load("models")
TAIL_MASS = 2.0**-8  # the default of the reference
FAMILIES = {
    "normal": entropy.gaussian_log_mass,
    "laplace": entropy.laplace_log_mass,
    "logistic": entropy.logistic_log_mass,
}
FACTORIZED = ("deep_factorized", "deep_factorized_deep")


def weights(case):
    """Our params with the reference's weights, which have our names and shapes."""
    return {
        kind: tuple(case[key] for key in sorted(case) if key.startswith(f"{kind}_"))
        for kind in ("matrices", "biases", "factors")
    }


def log_mass_of(name):
    """log P(lower < X < upper) of a reference case, its rows on the last axis."""
    case = MODELS[name]
    if name in FACTORIZED:
        params = weights(case)
        return lambda low, high: entropy.factorized_log_mass(params, low, high)
    moved = entropy.scaled(FAMILIES[name])
    scale, loc = np.float32(case["scale"]), np.float32(case["loc"])
    return lambda low, high: moved(low, high, scale, loc)


def check_bits(bits, case):
    bits = np.asarray(bits, np.float64)
    np.testing.assert_allclose(bits, case["bits"], rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(np.exp2(-bits), case["prob"], atol=2e-7, rtol=0)


@pytest.mark.parametrize("name", [*FAMILIES, *FACTORIZED])
def test_masses_and_bits(name):
    case = MODELS[name]
    rows = len(case["cdf_offset"])
    x = np.broadcast_to(np.float32(case["x"]), (len(case["x"]), rows))
    check_bits(entropy.noisy_bits(log_mass_of(name), x), case)
    assert np.ptp(case["bits"]) > 4  # the mode and the tails


@pytest.mark.parametrize("name", [*FAMILIES, *FACTORIZED])
def test_tails(name):
    case = MODELS[name]
    tails = entropy.find_tails(log_mass_of(name), len(case["cdf_offset"]), TAIL_MASS)
    for ours, theirs in zip(tails, (case["lower_tail"], case["upper_tail"]), strict=True):
        tolerance = 3e-5 if name in FACTORIZED else 2e-6
        np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=tolerance)


def rows_of(case):
    """(frequencies, first value) of each row of a reference table, as fractions of 1."""
    rows = range_coder.read_rows(case["cdf"])
    lines = np.split(rows.cumulative, rows.first[1:])
    return [np.diff(line) >> (16 - int(p)) for line, p in zip(lines, rows.precision, strict=True)]


@pytest.mark.parametrize("name", [*FAMILIES, *FACTORIZED])
def test_quantised_tables_over_the_same_values(name):
    """Frequencies like theirs, and never more bits: theirs are found greedily too."""
    case = MODELS[name]
    offset = np.broadcast_to(case["quantization_offset"], case["cdf_offset"].shape)
    log_mass = log_mass_of(name)
    for row, theirs in enumerate(rows_of(case)):
        values = case["cdf_offset"][row] + np.arange(len(theirs) - 1)
        centres = np.float32(values[:, None] + offset)
        pmf = np.exp(np.asarray(log_mass(centres - 0.5, centres + 0.5), np.float64))[:, row]
        pmf = np.append(pmf, max(1 - pmf.sum(), 0.0))
        ours = np.asarray(build_tables(pmf, precision=12, escape=True).frequencies)[0]
        assert np.abs(ours.astype(int) - theirs).max() <= 2
        assert pmf @ np.log2(theirs / ours) <= 1e-6


@pytest.mark.parametrize("name", FACTORIZED)
def test_a_model_with_their_weights_spends_their_bits(name):
    """bits at their quantised values is their estimate, and tables and strings follow it."""
    case = MODELS[name]
    params = weights(case)
    filters = tuple(matrix.shape[1] for matrix in params["matrices"][:-1])
    model = entropy.factorized(4, filters=filters)
    start = model.init()
    for kind, leaves in params.items():
        assert [leaf.shape for leaf in start[kind]] == [leaf.shape for leaf in leaves]
    bits = model.bits(params, np.float32(case["y_hat"]))
    np.testing.assert_allclose(float(bits.sum()), case["y_bits"], rtol=1e-6)
    shape = case["y_hat"].shape
    index = np.asarray(model.index(params, shape))
    decoded = range_coder.decode(
        case["cdf"], case["string"].tobytes(), index, offset=case["cdf_offset"]
    )
    np.testing.assert_allclose(decoded + case["quantization_offset"], case["y_hat"], atol=1e-12)
    # Our table of integers, sent through their coder, costs no more than their string.
    cdf, offset = range_coder.from_tables(model.tables(params))
    ours = range_coder.encode(cdf, decoded, index, offset=offset)
    assert len(ours) <= len(case["string"]) * 1.02 + 2


@pytest.mark.parametrize("precision", [8, 12, 16])
def test_frequencies_of_any_probabilities(precision):
    """pmf_to_quantized_cdf: both are greedy; ours starts at 1, so it is the optimum."""
    case = MODELS["pmf_to_quantized_cdf"]
    theirs = np.diff(case[str(precision)], axis=-1)
    ours = np.asarray(build_tables(case["pmf"], precision=precision).frequencies).astype(int)
    pmf = case["pmf"].astype(np.float64)
    saved = (pmf * np.log2(ours / theirs)).sum(axis=1)
    assert (saved > -1e-6).all() and (saved < 0.01).all()
    assert np.abs(ours - theirs).max() <= 3
