"""Leaves are pytrees: slices, stacks, scans and maps of their leading axes stay leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.leaf import dense, is_leaf, map_leading, part_axis
from tests.lift.cases import QUICK, normal, scaled

F = jc.formats
rng = np.random.default_rng(0)
W = rng.normal(size=(3, 64, 4, 6)).astype(np.float32)
FORMATS = [F.UINT4_G32, F.NVFP4._replace(group=32), F.TERNARY, F.NF4_DOUBLE]


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_leading_axes_are_sliced_scanned_and_mapped(format):
    leaf = F.quantize(W, format, 1)
    if isinstance(format.scale, F.Format) and format.scale.group is None:
        # One global scale for each matrix, as weights.compress makes them, not one in all.
        leaf = jax.tree.map(lambda *p: jnp.stack(p), *(F.quantize(w, format, 0) for w in W))
    whole = np.asarray(leaf.dense())
    one = jax.tree.map(lambda part: part[1], leaf)
    assert is_leaf(one) and one.shape == (64, 4, 6) and one.packed == leaf.packed
    np.testing.assert_array_equal(one.dense(), whole[1])
    _, scanned = jax.lax.scan(lambda c, w: (c, w.dense()), 0, leaf)
    np.testing.assert_array_equal(scanned, whole)
    np.testing.assert_array_equal(jax.jit(jax.vmap(dense))(leaf), whole)
    x = rng.normal(size=(3, 5, 64)).astype(np.float32)
    mapped = jax.jit(lambda w, x: map_leading(lambda w, x: w.matmul(x), w, x))(leaf, x)
    np.testing.assert_allclose(mapped, np.einsum("lmk,lkab->lmab", x, whole), atol=1e-3)


def test_facts_of_a_leaf():
    leaf = F.quantize(W, F.INT4_G32, 1)
    assert leaf.shape == W.shape and leaf.ndim == 4 and leaf.size == W.size
    assert leaf.layout.free == (-4, -2, -1) and leaf.layout.size_in == 64
    assert leaf.nbytes == W.size // 2 + 2 * W.size // 32
    assert part_axis(leaf.packed, -1) == -1 and part_axis(leaf.packed, -4) == -4
    two = F.quantize(W, F.INT8, (1, 2))
    assert part_axis(two.packed, -4) == -3 and two.codes.shape == (3, 256, 6)


def test_parts_without_a_free_axis_are_left_alone_by_map_free():
    leaf = F.quantize(W[0], F.INT8._replace(group=None), 0)
    kept = leaf.map_free(-1, lambda part, axis: jnp.take(part, jnp.array([5, 0]), axis))
    assert kept.scales.shape == (1, 1, 1) and kept.shape == (64, 4, 2)
    np.testing.assert_array_equal(kept.dense(), np.asarray(leaf.dense())[..., [5, 0]])


def test_shapes_alone_make_a_leaf():
    leaf = jax.eval_shape(lambda w: F.quantize(w, F.INT4_G32, 1), W)
    assert leaf.shape == W.shape and leaf.nbytes == W.size // 2 + 2 * W.size // 32


def test_a_leaf_where_an_array_belongs_says_what_to_call():
    leaf = F.quantize(W, F.INT8, 1)
    for use in (np.asarray, jnp.asarray, lambda leaf: jnp.ones((2, 2)) @ leaf):
        with pytest.raises(UnsupportedInput, match=r"got a QTensor.*jc.lift\(fn\).*leaf.dense\(\)"):
            use(leaf)


INDICES = [
    np.s_[1],
    np.s_[..., 2:5],
    np.s_[1:, :, 3],
    np.s_[-1, :, ::-2, np.int32(0)],
    np.s_[:, 0:64, 1:2, 4],
    np.s_[...],
]


def indexed(leaf, indices):
    """Each leaf[index] is packed, and the dense weight's [index]; in one program."""

    def both(leaf):
        return [(leaf[i].dense(), leaf.dense()[i]) for i in indices]

    assert all(is_leaf(leaf[i]) for i in indices)
    for found, expected in jax.jit(both, compiler_options=QUICK)(leaf):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("format", [F.UINT4_G32, F.UINT4._replace(group=None), F.NVFP4], ids=str)
def test_free_axes_are_indexed_as_those_of_an_array(format):
    leaf = F.quantize(W, format, 1)
    indexed(leaf, INDICES)
    assert leaf[0].nbytes <= leaf.nbytes / 3
    found = jax.jit(F.dot, compiler_options=QUICK)(jnp.ones((2, 64)), leaf[0, ..., 1:3, 2])
    expected = np.asarray(leaf.dense())[0, :, 1:3, 2].sum(0)
    np.testing.assert_allclose(found, np.stack([expected] * 2), atol=1e-4)


def test_leaves_of_leaves_and_several_packed_axes_are_indexed():
    thin = F.low_rank(normal(12, 3), normal(3, 16), factors=F.INT8)
    indexed(F.Transformed(F.Sum((thin, thin)), input_scale=jnp.ones((1, 16))), [2, np.s_[1:9:2]])
    indexed(scaled(3, 2, 4, 5, axes=(-3, -2)), [2, np.s_[..., 1], np.s_[:2, :, :, ::-1]])


@pytest.mark.parametrize(
    "index,message",
    [
        (np.s_[:, 3], "axis 1 whole, along which the weight is packed, got 3"),
        (np.s_[:, ::-1], "axis 1 whole"),
        (np.s_[3], "leaves something of the 3 along axis 0, got 3"),
        (np.s_[:, :, 4:], "leaves something of the 4 along axis 2"),
        (np.s_[0, 0, 0, 0, 0], "at most 4 indices"),
        (np.s_[..., 0, ...], "one ..., got"),
        (np.array([0, 1]), "look up by arrays with jc.formats.take"),
        (None, "ints and slices, got None"),
    ],
)
def test_other_indices_are_named(index, message):
    leaf = scaled(*W.shape, axes=(1,))
    with pytest.raises(UnsupportedInput, match=message):
        leaf[index]
    with pytest.raises(TypeError, match="not iterable"):
        iter(leaf)
