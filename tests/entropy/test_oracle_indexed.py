"""Location-scale models by index against tensorflow-compression's, strings and all.

Bits within 1e-6 of a row's sum; what they coded is decoded exactly, by their tables and by ours.
"""

import numpy as np
import pytest

from jaxcomp import entropy
from jaxcomp.coding import decode, encode, range_coder
from tests.entropy.test_oracle_densities import FAMILIES
from tests.oracle.reference import load

MODELS = load("models")
SHARED = MODELS["location_scale"]
BUILDERS = {"normal": entropy.gaussian, "laplace": entropy.laplace, "logistic": entropy.logistic}


def symbols_of(case, line):
    """One of their strings, decoded with their tables: the integers round(y - loc)."""
    return range_coder.decode(
        case["cdf"],
        case[f"string_{line}"].tobytes(),
        SHARED["index"][line],
        offset=case["cdf_offset"],
    )


@pytest.mark.parametrize("family", BUILDERS)
def test_bits_index_and_symbols(family):
    case = MODELS[f"location_scale_{family}"]
    model = BUILDERS[family](scales=np.float32(SHARED["scales"]))
    loc, row = np.float32(SHARED["loc"]), np.int32(SHARED["index"])
    scale = np.float32(SHARED["scales"])[row]
    for side in (row, scale):  # the row itself, or the scale that is in it
        np.testing.assert_array_equal(model.index({}, row.shape, side), row)
        bits = np.asarray(model.bits({}, np.float32(case["y_hat"]), side, loc), np.float64)
        np.testing.assert_allclose(bits.sum(axis=1), case["bits"], rtol=1e-6)
    symbols = np.asarray(entropy.quantise(np.float32(SHARED["y"]), loc))
    for line in range(3):
        np.testing.assert_array_equal(symbols_of(case, line), symbols[line])
    decoded = entropy.dequantise(symbols, loc)
    np.testing.assert_allclose(decoded, case["y_hat"], atol=1e-5)


@pytest.mark.parametrize("family", BUILDERS)
def test_their_tables_in_our_coder_and_ours_in_theirs(family):
    case = MODELS[f"location_scale_{family}"]
    model = BUILDERS[family](scales=np.float32(SHARED["scales"]), precision=12, tail_mass=2.0**-8)
    row = np.int32(SHARED["index"])
    symbols = np.stack([symbols_of(case, line) for line in range(3)])
    theirs = range_coder.to_tables(case["cdf"], offset=case["cdf_offset"], precision=16)
    np.testing.assert_array_equal(decode(theirs, encode(theirs, symbols, row), row), symbols)
    cdf, offset = range_coder.from_tables(model.tables({}))
    for line in range(3):
        string = range_coder.encode(cdf, symbols[line], row[line], offset=offset)
        back = range_coder.decode(cdf, string, row[line], offset=offset)
        np.testing.assert_array_equal(back, symbols[line])


@pytest.mark.parametrize("family", BUILDERS)
def test_a_laplace_share_for_the_tails_is_a_mixture(family):
    """laplace_tail_mass: the density with a little of a unit Laplace one, as a log_sum_exp."""
    theirs = MODELS[f"location_scale_{family}"]["tail_bits"]
    scale = np.float32(SHARED["scales"])[SHARED["index"]]
    y = np.float32(MODELS[f"location_scale_{family}"]["y_hat"] - SHARED["loc"])
    share = 2.0**-10
    main = entropy.noisy_bits(entropy.scaled(FAMILIES[family]), y, scale)
    tail = entropy.noisy_bits(entropy.laplace_log_mass, y)
    mass = (1 - share) * np.exp2(-np.asarray(main, np.float64))
    mass += share * np.exp2(-np.asarray(tail, np.float64))
    held = mass >= 1e-10  # below, they leave out the main density, however much of the sum it is
    np.testing.assert_allclose(-np.log2(mass[held]), theirs[held], rtol=2e-6, atol=2e-6)
    assert (-np.log2(mass) <= theirs + 1e-5).all() and held.mean() > 0.9
