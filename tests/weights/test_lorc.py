"""LoRC: the best low rank of what rounding left over, by its singular values."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.weights.lorc import lorc, thin
from tests.checks import check_leaf
from tests.weights.outliers import compiles_once, compressed, layer, output_error

INT4, RANK = jc.formats.INT4, 4
rtn = jc.weights.rtn


@pytest.mark.parametrize("shape", [(64, 32), (32, 64)])
def test_leaves_the_singular_values_beyond_its_rank(shape):
    w = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    plain, small = (
        compressed(m, {"w": w}, None)["w"]
        for m in (rtn(INT4), lorc(INT4, RANK, factors=jnp.float32))
    )
    values = np.linalg.svd(np.asarray(w - plain.dense(), np.float64), compute_uv=False)
    left = np.linalg.norm(np.asarray(w - small.dense(), np.float64))
    np.testing.assert_allclose(left, np.sqrt((values[RANK:] ** 2).sum()), rtol=1e-4)
    assert small.nbytes == plain.nbytes + 4 * RANK * sum(shape)


def test_int8_factors_serve_as_well():
    params, x = layer()
    plain, small, exact = (
        output_error(m, params, x)
        for m in (rtn(INT4), lorc(INT4, RANK), lorc(INT4, RANK, factors=jnp.float32))
    )
    assert small < 0.75 * plain and abs(small - exact) < 0.01 * exact
    leaf = compressed(lorc(INT4, RANK), params, x)["w"]
    assert leaf.describe() == "int4 per channel + rank 4 int8"
    assert leaf.nbytes == 64 * 32 // 2 + 2 * 32 + RANK * (64 + 32) + 2 * (RANK + 32)


def test_a_rank_is_worth_more_than_smaller_groups_where_one_direction_is_large():
    """Outputs that are multiples of one row have rounding errors that are such multiples too.

    The weights are made so: one direction above noise. On real weights without such structure the
    gain is absent, and smaller groups are the better use of the bytes.
    """
    rng = np.random.default_rng(0)
    noise, outer, inner = (rng.normal(size=s) for s in ((256, 256), (256, 1), (1, 256)))
    w = jnp.asarray(0.1 * noise + 5 * outer * inner, jnp.float32)
    methods = lorc(INT4, 6, factors=jc.formats.INT8), rtn(jc.formats.INT4_G32)
    ranked, grouped = (compressed(m, {"w": w}, None)["w"] for m in methods)
    assert (ranked.nbytes, grouped.nbytes) == (36_876, 36_864)
    off = [float(((leaf.dense() - w) ** 2).sum() / (w**2).sum()) for leaf in (ranked, grouped)]
    assert off[0] < 0.5 * off[1]  # 0.0027 and 0.0085


def test_weights_on_the_grid_need_no_correction():
    dense = compressed(rtn(INT4), *layer())["w"].dense()
    again = compressed(lorc(INT4, RANK), {"w": dense}, None)["w"]
    np.testing.assert_array_equal(check_leaf(again), dense)
    np.testing.assert_array_equal(thin(jnp.zeros((6, 5)), None, 2)[1], 0)
    with pytest.raises(UnsupportedInput, match="rank"):
        lorc(INT4, 0)


def test_another_weight_of_the_shape_compiles_nothing_new():
    assert compiles_once(lorc(INT4), *layer())
