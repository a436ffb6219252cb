"""A rotated layer of 4-bit weights and 4-bit activations keeps what outliers drown elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from jaxcomp.base import Transform
from jaxcomp.lift.statistics import second_moment
from jaxcomp.weights.activation import activation
from jaxcomp.weights.hadamard import hadamard
from tests.checks import check_leaf
from tests.weights.outliers import compiles_once, compressed, layer, network, output_error

INT4 = jc.formats.INT4


def test_loses_less_than_plain_w4a4_where_channels_are_large():
    params, x = layer(magnitude=30)
    plain, rotated = (
        output_error(m, params, x)
        for m in (activation(INT4, "int4"), hadamard(INT4, activation="int4"))
    )
    assert rotated < 0.6 * plain  # measured: 1.4e-2 and 3.1e-2
    leaf = compressed(hadamard(INT4, activation="int4"), params, x)["w"]
    assert leaf.describe() == "int4 per channel / rotated / x int4"
    assert leaf.nbytes == 64 * 32 // 2 + 2 * 32 + 64 // 8


def test_weights_on_the_rotated_grid_come_back():
    params, x = layer()
    leaf = compressed(hadamard(INT4), params, x)["w"]
    dense = check_leaf(leaf).astype(np.float32)
    again = compressed(hadamard(INT4), {"w": jnp.asarray(dense)}, x)["w"]
    np.testing.assert_allclose(again.dense(), dense, atol=1e-5)
    np.testing.assert_array_equal(again.inner.codes, leaf.inner.codes)


def test_signs_keep_a_constant_row_from_becoming_an_outlier():
    flat = {"w": jnp.ones((64, 32))}
    with_signs, without = (
        compressed(hadamard(INT4, signs_key=key), flat, None)["w"].inner.dense()
        for key in ((0, 0), None)
    )
    np.testing.assert_allclose(without[0], 8, rtol=0.01)  # all in the first input
    assert jnp.abs(with_signs).max() < 4


def test_every_size_is_rotated_and_the_method_inside_sees_rotated_moments():
    seen = {}

    def compress(w, state, axes):
        seen["moment"] = state["moment"]
        return jc.weights.rtn(jc.formats.INT8).compress(w, None, axes)

    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(9, 6)), jnp.float32)}  # no matrix of Hadamard
    x = jnp.asarray(rng.normal(size=(40, 9)), jnp.float32)
    small = compressed(hadamard(Transform(compress, second_moment, "spy")), params, x)
    moment = x.T @ x
    assert jnp.abs(seen["moment"] - moment).max() > 1
    np.testing.assert_allclose(
        np.linalg.eigvalsh(seen["moment"]), np.linalg.eigvalsh(moment), rtol=1e-3
    )
    got = jax.jit(jc.lift(network, strict=True))(small, x)
    np.testing.assert_allclose(got, network(params, x), atol=0.1)


def test_another_weight_of_the_shape_compiles_nothing_new():
    assert compiles_once(hadamard(INT4), *layer())
