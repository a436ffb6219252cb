"""AWQ never does worse than rounding as it is, and much better where few channels are large."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.weights.awq import awq, awq_folded
from tests.checks import check_leaf
from tests.weights import folded_case
from tests.weights.outliers import compiles_once, compressed, layer, output_error

INT4, INT3 = jc.formats.INT4, jc.formats.INT3_G32
rtn = jc.weights.rtn


@pytest.mark.parametrize("magnitude", [1.0, 30.0])
def test_output_error_is_at_most_that_of_rounding(magnitude):
    params, x = layer(magnitude)
    plain, scaled, clipped = (
        output_error(m, params, x) for m in (rtn(INT3), awq(INT3, clip=False), awq(INT3))
    )
    most = 0.4 if magnitude > 1 else 1.0  # measured: 1.3e-2 of 4.8e-2, and 4.9e-2 of 5.0e-2
    assert scaled < most * plain and clipped < 0.8 * scaled


def test_without_scaling_it_is_rounding_to_nearest():
    params, x = layer()
    leaf = compressed(awq(INT4, grid=1, clip=False), params, x)["w"]
    plain = compressed(rtn(INT4), params, x)["w"]
    np.testing.assert_array_equal(leaf.codes, plain.codes)
    np.testing.assert_array_equal(leaf.dense(), plain.dense())


def test_weights_on_its_grid_come_back():
    params, x = layer()
    method = awq(INT4, clip=False)
    leaf = compressed(method, params, x)["w"]
    dense = check_leaf(leaf).astype(np.float32)
    again = compressed(method, {"w": jnp.asarray(dense)}, x)["w"]
    np.testing.assert_allclose(again.dense(), dense, atol=1e-5)
    assert leaf.nbytes == 64 * 32 // 2 + 2 * 32 + 2 * 64
    assert jnp.abs(leaf.input_scale - 1).max() > 0.1


def test_channels_that_were_silent_keep_their_scale():
    """Measured of their weights: 1.02 times the error of rounding; 1.84 with the mean's scale."""
    params, x = layer()
    silent = jnp.arange(64) >= 32
    quiet = jnp.where(silent, 0, x)
    leaf, plain = (
        compressed(method, params, quiet)["w"] for method in (awq(INT4, clip=False), rtn(INT4))
    )
    scale = leaf.input_scale.reshape(-1)
    assert (scale[silent] == 1).all() and (scale[~silent] != 1).any()
    off, rounded = (float(jnp.square(q.dense() - params["w"])[32:].sum()) for q in (leaf, plain))
    assert off < 1.2**2 * rounded
    assert jnp.isfinite(compressed(awq(INT4, grid=3), params, quiet)["w"].dense()).all()
    with pytest.raises(UnsupportedInput, match="grid"):
        awq(INT4, grid=0)


def test_another_weight_of_the_shape_compiles_nothing_new():
    assert compiles_once(awq(INT4, grid=2), *layer())


def test_folded_scales_are_as_good_and_take_no_byte():
    """Measured: 1.2e-2 folded, one rho for two weights; 1.1e-2 in leaves; 0.28 rounded."""
    params, x = folded_case.case()
    stats = folded_case.stats()
    new, moved = awq_folded(folded_case.network, params, x[:2], stats=stats, method=INT4, grid=6)
    folded_case.check_folded(params, new)
    clip = awq(INT4, grid=1)
    small = jc.weights.compress(new, clip, stats=moved)
    plain, clipped, leaves = (
        jc.weights.compress(params, m, stats=stats) for m in (rtn(INT4), clip, awq(INT4, grid=6))
    )
    errors = [float(folded_case.error(tree)) for tree in (small, leaves, clipped, plain)]
    assert errors[0] < 1.25 * errors[1] and errors[0] < errors[2] / 2 and errors[0] < errors[3] / 10
    assert jc.tree.nbytes(small) == jc.tree.nbytes(plain) < jc.tree.nbytes(leaves)
    report = jc.lift(folded_case.network).report(small, x)
    assert {type(leaf) for _, leaf in jc.tree.leaves(small) if jc.tree.is_compressed(leaf)} == {
        jc.formats.QTensor
    }
    assert not report.materialised and "scaled" not in str(report)


def test_folding_needs_second_moments_and_a_grid():
    params, x = folded_case.case()
    largest = jc.observe(folded_case.network, params, [x], statistic=jc.weights.max_magnitude)
    with pytest.raises(UnsupportedInput, match="^(up|side|down): expected second moments"):
        awq_folded(folded_case.network, params, x[:2], stats=largest)
    odd = jc.formats.INT4._replace(group=24)
    with pytest.raises(UnsupportedInput, match="^(up|side|down): group=24 must divide"):
        awq_folded(folded_case.network, params, x[:2], stats=folded_case.stats(), method=odd)
    with pytest.raises(UnsupportedInput, match="grid"):
        awq_folded(folded_case.network, params, x[:2], stats=largest, grid=0)
    for none in (None, {}, jc.observe(folded_case.network, params, [x[:2]], statistic=None)):
        with pytest.raises(UnsupportedInput, match="statistics of params, got none"):
            awq_folded(folded_case.network, params, x[:2], stats=none)
    unknown = largest["up"]._replace(state={"max": jnp.full(64, jnp.nan)})
    with pytest.raises(UnsupportedInput, match="up: expected finite statistics"):
        awq_folded(folded_case.network, params, x[:2], stats={**largest, "up": unknown})
