"""QTensor: every format in every layout multiplies as it reads, and its own grid comes back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.grid_choice import choose
from jaxcomp.formats.level_rules import Levels
from jaxcomp.formats.outlier_victim import outlier_victim
from jaxcomp.formats.qtensor import check_finite, from_codes, from_groups
from jaxcomp.kernels.packing import TRITS
from tests.checks import check_leaf

F = jc.formats
rng = np.random.default_rng(0)
SHAPES = [((64, 6), (-2,)), ((2, 6, 64), (-1,)), ((2, 2, 16, 3), (0, 1, 2)), ((2, 64, 3), (1,))]
FORMATS = [
    F.INT8,
    F.INT4_G32,
    F.INT3_G32,
    F.UINT2_G16,
    F.TERNARY,
    F.UINT8,
    F.INT4._replace(group=None),
]
FORMATS += [F.MXFP4, F.NVFP4, F.NF4]


@pytest.mark.parametrize("number", range(len(FORMATS)), ids=lambda i: str(FORMATS[i]))
def test_multiplies_as_it_reads(number):
    shape, axes = SHAPES[number % len(SHAPES)]
    w = rng.normal(size=shape).astype(np.float32)
    leaf = F.quantize(w, FORMATS[number], axes)
    dense = check_leaf(leaf)
    assert np.linalg.norm(dense - w) < 0.75 * np.linalg.norm(w)


@pytest.mark.parametrize(
    "format",
    [
        F.INT8,
        F.INT4_G32,
        F.INT3_G32,
        F.INT2_G32,
        F.UINT4_G32,
        F.UINT8,
        F.INT4._replace(scale="e8m0"),
    ],
    ids=str,
)
def test_a_weight_on_the_grid_comes_back(format):
    out, size = 5, 64
    lowest = 0 if format.zero else 1  # symmetric grids leave out their most negative level
    count = 1 << format.bits
    codes = rng.integers(lowest, count, (out, size))
    codes[:, ::16], codes[:, 1::16] = lowest, count - 1
    groups = 1 if format.group == -1 else size // format.group
    scales = np.exp2(rng.uniform(-90, 90, (out, groups)))  # huge and tiny
    if format.scale == "e8m0":
        scales = rng.integers(30, 220, (out, groups)).astype(np.uint8)
    scales = jnp.asarray(scales, None if format.scale == "e8m0" else "bfloat16")
    zeros = jnp.asarray(rng.integers(0, count, (out, groups)), jnp.uint8) if format.zero else None
    leaf = from_codes(jnp.asarray(codes), scales, zeros, format, size=size)
    again = F.quantize(leaf.dense(), format, -1)
    np.testing.assert_array_equal(again.dense(), leaf.dense())
    if format.scale != "e8m0":
        np.testing.assert_array_equal(again.codes, leaf.codes)
        np.testing.assert_array_equal(again.scales, leaf.scales)


def test_padding_is_counted_and_invisible():
    w = rng.normal(size=(101, 3)).astype(np.float32)
    with pytest.raises(UnsupportedInput, match="group=32 must divide"):
        F.quantize(w, F.INT4_G32)
    padded = F.quantize(w, F.INT4_G32._replace(pad=True))
    assert padded.shape == w.shape and padded.nbytes == 3 * (128 // 2 + 2 * 4)
    check_leaf(padded)
    rows = F.quantize(w, F.INT3)  # no tile divides 101
    assert rows.nbytes == 3 * (104 * 3 // 8 + 2)
    check_leaf(rows)


def test_zeros_extremes_and_tiny_numbers():
    w = np.zeros((64, 4), np.float32)
    w[:, 1], w[:, 2], w[:, 3] = 1e37, 1e-35, 1e-37  # scales of the last are no normal floats
    for format in (F.INT8, F.UINT4_G32, F.NF4, F.NF4_DOUBLE):
        dense = np.asarray(F.quantize(w, format).dense())
        assert np.isfinite(dense).all() and (dense[:, 0] == 0).all()
        np.testing.assert_allclose(dense[:, 1], w[:, 1], rtol=0.01)
        if format.scale == "bfloat16":
            np.testing.assert_allclose(dense[:, 2], w[:, 2], rtol=0.01)


def test_half_precision_weights_keep_their_dtype():
    w = jnp.asarray(rng.normal(size=(64, 4)), jnp.bfloat16)
    leaf = F.quantize(w, F.INT8)
    assert leaf.dtype == leaf.dense().dtype == jnp.bfloat16


def test_scales_given_by_a_method_are_used():
    w = rng.normal(size=(4, 64)).astype(np.float32)
    scales = jnp.full((4, 2), 0.25)
    leaf = from_groups(jnp.asarray(w), F.INT4_G32, scales=scales)
    np.testing.assert_array_equal(leaf.dense(), np.rint(w * 4).clip(-8, 7) / 4)


def test_no_dense_copy_and_no_retrace():
    leaf = F.quantize(rng.normal(size=(1024, 1024)).astype(np.float32), F.INT4_G128)
    product = jax.jit(lambda x, w: F.dot(x, w))
    x = jnp.ones((4, 1024))
    memory = product.lower(x, leaf).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 1024 * 1024 * 4 // 2
    product(x, leaf)
    product(x, F.quantize(rng.normal(size=(1024, 1024)).astype(np.float32), F.INT4_G128))
    assert product._cache_size() == 1


def test_kernels_are_named_per_platform():
    four = F.quantize(np.ones((128, 64), np.float32), F.INT4_G128)
    three = F.quantize(np.ones((128, 64), np.float32), F.INT3)
    assert four.kernel("cpu") == ("blocked lax", "") and four.kernel("cuda")[0] == "quant_matmul"
    assert four.kernel("cuda", jnp.float64)[0] == "blocked lax"  # as x is, not as the leaf
    name, why = three.kernel("cuda")
    assert name == "blocked lax" and "int3" in why


def test_nan_is_named():
    with pytest.raises(UnsupportedInput, match="2 of 8 not finite in a/b"):
        check_finite(jnp.asarray([np.nan, np.inf, *range(6)]), "a/b")
    check_finite(jnp.full(64, 1e37), "a/b")  # large, but finite


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_by_all_that_make_leaves(bad):
    w = jnp.ones((8, 8)).at[1, 2].set(bad)
    makers = [
        lambda w: F.quantize(w, F.INT8),
        lambda w: F.sparse_nm(w, 2, 4),
        lambda w: outlier_victim(w, F.INT4),
        lambda w: F.low_rank(w, w, factors=F.INT8),
        lambda w: choose(w, Levels("power", 2, (1.0, 0.5)), F.INT2),
        F.sparse_rows,
    ]
    for make in makers:
        with pytest.raises(UnsupportedInput, match="1 of 64 not finite in"):
            make(w)
    jax.eval_shape(jax.jit(makers[0]), w)  # nobody knows there
    jax.eval_shape(makers[1], w)


@pytest.mark.parametrize("format", [F.NVFP4, F.FP8_E4M3_TENSOR], ids=str)
def test_stacked_matrices_have_a_scale_each_where_a_matrix_has_one(format):
    w = rng.normal(size=(3, 32, 4)).astype(np.float32) * np.array([1, 10, 0.1])[:, None, None]
    leaf = F.quantize(w.astype(np.float32), format)
    assert all(part.shape[0] == 3 for part in leaf.parts) and leaf.shape == w.shape
    dense = check_leaf(leaf)
    for i in range(3):
        one = jax.tree.map(lambda part, i=i: part[i], leaf)
        alone = F.quantize(w[i].astype(np.float32), format)
        np.testing.assert_array_equal(one.dense(), alone.dense())
        np.testing.assert_array_equal(dense[i], alone.dense())
    each = jax.vmap(lambda w: w.dense())(leaf)
    _, scanned = jax.lax.scan(lambda c, w: (c, w.dense()), 0, leaf)
    np.testing.assert_array_equal(each, scanned)
    made = jc.weights.compress(jnp.asarray(w, jnp.float32), format, axes=-2)
    np.testing.assert_array_equal(made.dense(), leaf.dense())
    assert made.nbytes == leaf.nbytes


def test_trits_are_not_bits():
    assert F.TERNARY.bits == TRITS
