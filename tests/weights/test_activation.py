"""Any method with rounded activations: integers times integers where both are."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.transformed import rounded
from jaxcomp.weights.activation import activation
from tests.weights.outliers import compressed, layer, network


def test_the_leaf_rounds_what_it_multiplies():
    params, x = layer()
    plain = compressed(jc.weights.rtn(jc.formats.INT8), params, x)
    small = compressed(activation(jc.formats.INT8, "int8"), params, x)
    assert small["w"].nbytes == plain["w"].nbytes  # nothing but integers and their scales
    np.testing.assert_array_equal(small["w"].dense(), plain["w"].dense())
    got = jc.lift(network, strict=True)(small, x)
    np.testing.assert_allclose(got, rounded(x, "int8") @ plain["w"].dense(), atol=1e-3)
    report = jc.lift(network).report(small, x)
    assert report.rows[0].ran.endswith("of integers") and report.rows[0].format.endswith("/ x int8")


def test_fewer_bits_of_activations_lose_more():
    params, x = layer(magnitude=1)
    y = network(params, x)
    methods = [activation(jc.formats.INT8, bits) for bits in ("int8", "int4")]
    found = [jc.lift(network)(compressed(method, params, x), x) for method in methods]
    eight, four = (float(jnp.abs(each - y).mean()) for each in found)
    assert 0 < 5 * eight < four


def test_an_unknown_format_is_refused_at_once():
    with pytest.raises(UnsupportedInput, match="int8, int4"):
        activation(jc.formats.INT8, "int5")
