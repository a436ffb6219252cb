"""SmoothQuant: with outliers in a few channels, W8A8 keeps the digits of the others."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.weights.activation import activation
from jaxcomp.weights.smoothquant import smoothquant, smoothquant_folded
from tests.checks import check_leaf
from tests.weights import folded_case
from tests.weights.outliers import compiles_once, compressed, layer, network, output_error

pytestmark = pytest.mark.usefixtures("quick_file")

INT8 = jc.formats.INT8


def test_loses_less_than_plain_w8a8_where_channels_are_large():
    params, x = layer(magnitude=30)
    plain, smooth = (output_error(m, params, x) for m in (activation(INT8, "int8"), smoothquant()))
    assert smooth < plain / 4  # measured: 2.8e-5 and 2.5e-4
    leaf = compressed(smoothquant(), params, x)["w"]
    assert leaf.describe() == "int8 per channel / scaled / x int8"
    assert leaf.nbytes == 64 * 32 + 2 * 32 + 2 * 64  # codes, their scales, those of inputs


def test_both_sides_of_a_channel_span_the_same():
    params, x = layer()
    leaf = compressed(smoothquant(activation=None), params, x)["w"]
    scale = leaf.input_scale.reshape(-1).astype(jnp.float32)
    sides = jnp.abs(x).max(0) * scale, jnp.abs(params["w"]).max(1) / scale
    np.testing.assert_allclose(*sides, rtol=0.02)  # scales are bfloat16
    check_leaf(leaf)


def test_alpha_0_flattens_the_weights_whatever_x_is():
    params, x = layer()
    small = compressed(smoothquant(alpha=0.0, activation=None), params, x)
    scale = small["w"].input_scale.reshape(-1).astype(jnp.float32)
    np.testing.assert_allclose(jnp.abs(params["w"]).max(1), scale, rtol=0.01)
    silent = compressed(smoothquant(), params, jnp.asarray(x).at[..., ::2].set(0))
    assert jnp.isfinite(jc.lift(network)(silent, x)).all()
    with pytest.raises(UnsupportedInput, match="alpha"):
        smoothquant(alpha=1.5)


def test_another_weight_of_the_shape_compiles_nothing_new():
    assert compiles_once(smoothquant(), *layer())


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_folded_scales_are_as_good_and_take_no_byte(bits):
    """Measured: 9.7e-5 folded, 1.2e-4 in leaves, 8.6e-3 plain; at 4 bits 0.032, 0.038, 0.86."""
    format = {"int8": INT8, "int4": jc.formats.INT4}[bits]
    params, x = folded_case.case()
    stats = folded_case.stats()
    new, moved = smoothquant_folded(folded_case.network, params, x[:2], stats=stats)
    folded_case.check_folded(params, new)
    rounded = activation(format, bits)
    small = jc.weights.compress(new, rounded, stats=moved)
    plain = jc.weights.compress(params, rounded, stats=stats)
    leaves = jc.weights.compress(params, smoothquant(format, activation=bits), stats=stats)
    errors = [float(folded_case.error(tree)) for tree in (small, leaves, plain)]
    assert errors[0] < 1.05 * errors[1] and errors[0] < errors[2] / 20
    assert jc.tree.nbytes(small) == jc.tree.nbytes(plain) < jc.tree.nbytes(leaves)
    assert all(small[name].input_scale is None for name in ("up", "side", "down"))


def test_what_is_folded_balances_all_readers_of_a_channel():
    params, x = folded_case.case()
    new, moved = smoothquant_folded(folded_case.network, params, x[:2], stats=folded_case.stats())
    weights = jnp.maximum(*(jnp.abs(new[name]).max(1) for name in ("up", "side")))
    largest = moved["up"].state["max_magnitude"]["max"]
    np.testing.assert_allclose(largest, weights, rtol=1e-4)
    with pytest.raises(UnsupportedInput, match="alpha"):
        smoothquant_folded(folded_case.network, params, x[:2], stats=moved, alpha=2.0)
    only = jc.observe(folded_case.network, params, [x])
    with pytest.raises(UnsupportedInput, match="^(up|side|down): expected the largest"):
        smoothquant_folded(folded_case.network, params, x[:2], stats=only)
