"""Run-length strings: those of tensorflow-compression byte for byte; round trips; damage."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import jaxcomp as jc
from jaxcomp.coding import run_length_string
from tests.oracle.reference import load

MODELS = load("models")
CODES = {"power_law": {}, "laplace_l1": {"magnitude_code": 0}}
OPTIONS = st.fixed_dictionaries(
    {
        "run_code": st.integers(-1, 8),
        "magnitude_code": st.sampled_from([-1, 24, 30]),
        "grouped": st.booleans(),
    }
)
SPARSE = st.lists(st.just(0) | st.integers(-9, 9) | st.integers(1 - (1 << 31), (1 << 31) - 1))


@pytest.mark.parametrize("model", CODES)
def test_strings_of_the_sparse_models(model):
    """What PowerLawEntropyModel and LaplaceEntropyModel compress to."""
    case = MODELS[model]
    for line, y_hat in enumerate(case["y_hat"].astype(np.int32)):
        string = case[f"string_{line}"].tobytes()
        assert run_length_string.encode(y_hat, **CODES[model]) == string
        decoded = run_length_string.decode(string, y_hat.shape, **CODES[model])
        np.testing.assert_array_equal(decoded, y_hat)


@pytest.mark.parametrize("number", range(3))
def test_strings_of_every_code(number):
    case = MODELS[f"run_length_{number}"]
    run, magnitude, grouped = case["options"].tolist()
    options = dict(run_code=run, magnitude_code=magnitude, grouped=bool(grouped))
    string = case["string"].tobytes()
    assert run_length_string.encode(case["symbols"], **options) == string
    decoded = run_length_string.decode(string, case["symbols"].shape, **options)
    np.testing.assert_array_equal(decoded, case["symbols"])


@settings(max_examples=200, deadline=None)
@given(SPARSE, OPTIONS)
def test_round_trip(values, options):
    string = run_length_string.encode(np.array(values, np.int32), **options)
    decoded = run_length_string.decode(string, (len(values),), **options)
    assert decoded.tolist() == values
    with pytest.raises(jc.CorruptStream, match="another shape"):
        run_length_string.decode(string + b"\0", (len(values),), **options)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=9), st.integers(0, 30), OPTIONS)
def test_a_string_decodes_only_if_the_encoder_wrote_it(string, count, options):
    try:
        values = run_length_string.decode(string, (count,), **options)
    except jc.CorruptStream:
        return
    assert run_length_string.encode(values, **options) == string


def test_gamma_codes_take_any_number_of_large_values():
    values = np.full(300, (1 << 31) - 1)
    string = run_length_string.encode(values)
    assert len(string) == 300 * (1 + 1 + 61) // 8 + 1
    np.testing.assert_array_equal(run_length_string.decode(string, (300,)), values)


def test_sparse_values_take_few_bytes():
    values = np.zeros(10_000, np.int32)
    values[::100] = 3
    assert len(run_length_string.encode(values)) < 0.02 * values.nbytes


def test_bad_input_is_named():
    with pytest.raises(jc.JaxcompError, match="above -2"):
        run_length_string.encode(np.array([-(1 << 31)]))
    least = run_length_string.encode(np.array([-(1 << 31)]), magnitude_code=30)
    assert run_length_string.decode(least, (1,), magnitude_code=30).tolist() == [-(1 << 31)]
    with pytest.raises(jc.JaxcompError, match="too long a string"):
        run_length_string.encode(np.full(5, (1 << 31) - 1), magnitude_code=0)
    with pytest.raises(jc.JaxcompError, match="Rice parameters"):
        run_length_string.decode(b"", (0,), run_code=31)
    for string in (b"", b"\0" * 9, b"\x01"):
        with pytest.raises(jc.CorruptStream, match="truncated"):
            run_length_string.decode(string, (3,))
    with pytest.raises(jc.CorruptStream, match="a run to"):
        run_length_string.decode(run_length_string.encode(np.zeros(9, np.int32)), (3,))
