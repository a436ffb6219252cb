"""dot and take: what the dense weight gives, for all axes, and refused where sizes differ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.product import batched

F = jc.formats
rng = np.random.default_rng(0)


@pytest.mark.parametrize(
    "shape,axes", [((64, 6), -2), ((6, 64), -1), ((4, 16, 5), (0, 1)), ((5, 4, 16), (1, 2))]
)
def test_dot_sums_over_the_packed_axes(shape, axes):
    w = rng.normal(size=shape).astype(np.float32)
    leaf = F.quantize(w, F.UINT4_G32, axes)
    sizes = [size for _, size in leaf.packed]
    x = rng.normal(size=(2, 3, *sizes)).astype(np.float32)
    found = jax.jit(F.dot)(x, leaf)
    over = [axis for axis, _ in leaf.packed]
    expected = np.tensordot(x, leaf.dense(), (range(2, 2 + len(sizes)), over))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert jax.jit(F.dot)(x.astype("bfloat16"), leaf).dtype == jnp.bfloat16


def test_stacks_with_one_scale_per_matrix():
    w = rng.normal(size=(3, 32, 4)).astype(np.float32)
    format = F.INT8._replace(group=None)
    leaf = jax.tree.map(lambda *p: jnp.stack(p), *(F.quantize(each, format) for each in w))
    x = rng.normal(size=(2, 32)).astype(np.float32)
    dense = np.asarray(leaf.dense())
    found = jax.jit(F.dot)(x, leaf)
    np.testing.assert_allclose(found, np.einsum("mk,lkn->mln", x, dense), atol=1e-4)
    paired = jax.jit(lambda x, w: batched(x, w, 1))(np.stack([x, 2 * x, 3 * x]), leaf)
    np.testing.assert_allclose(paired[2], 3 * x @ dense[2], atol=1e-3)


def test_take_makes_only_the_rows_that_are_asked_for():
    w = rng.normal(size=(50, 64)).astype(np.float32)
    leaf = F.quantize(w, F.INT4_G32, -1)
    at = np.array([[3, 49], [0, 99]])
    lookup = jax.jit(F.take)
    found = lookup(leaf, at)
    np.testing.assert_array_equal(found, np.asarray(leaf.dense())[at.clip(0, 49)])
    text = lookup.lower(leaf, at).as_text()
    assert "50x64" not in text and "4x64" in text
    np.testing.assert_array_equal(
        F.take(F.quantize(w.T, F.INT4_G32, 0), jnp.array([7]), axis=-1),
        np.asarray(leaf.dense())[[7]].T,
    )


def test_gradients_reach_x_and_scales():
    w = rng.normal(size=(32, 4)).astype(np.float32)
    leaf = F.quantize(w, F.INT4_G32)
    x = rng.normal(size=(3, 32)).astype(np.float32)

    def loss(x, w):
        return (F.dot(x, w) ** 2).sum()

    dx, dw = jax.jit(jax.grad(loss, (0, 1), allow_int=True))(x, leaf)
    dense = np.asarray(leaf.dense())
    np.testing.assert_allclose(dx, 2 * x @ dense @ dense.T, rtol=1e-3, atol=1e-3)
    unit = dense / np.asarray(leaf.scales, np.float32)
    expected = (2 * x.T @ (x @ dense) * unit).sum(0, keepdims=True)
    np.testing.assert_allclose(np.asarray(dw.scales, np.float32), expected, rtol=0.02)


def test_sizes_that_differ_are_named():
    leaf = F.quantize(np.ones((32, 4), np.float32), F.INT4_G32)
    with pytest.raises(UnsupportedInput, match=r"\[..., 32\], got \(3, 31\)"):
        F.dot(jnp.ones((3, 31)), leaf)
    with pytest.raises(UnsupportedInput, match="free axis"):
        F.take(leaf, jnp.array([0]), axis=0)


def test_dense_arrays_pass():
    x, w = jnp.ones((2, 3)), jnp.ones((3, 4))
    np.testing.assert_array_equal(F.dot(x, w), x @ w)
    assert F.dense(w) is w


def test_programs_of_64_bits():
    w = jnp.asarray(rng.normal(size=(200, 100)), jnp.float32)
    x, g = jnp.asarray(rng.normal(size=(3, 200)), jnp.float32), jnp.ones((3, 100), jnp.float32)
    with jax.enable_x64(True):
        leaf = jc.formats.quantize(w, jc.formats.INT4._replace(group=20))
        dense = leaf.dense()
        back = jax.jit(jc.lift(lambda w, g: g @ w.T, strict=True))(leaf, g)
        np.testing.assert_allclose(jc.formats.dot(x, leaf), x @ dense, atol=1e-3)
        np.testing.assert_allclose(back, g @ dense.T, atol=1e-3)
        jax.eval_shape(leaf.matmul_int8, x)  # what mixes dtypes fails when it is traced
        for method in (jc.weights.olive(), jc.weights.llm_fp4()):
            made = jax.eval_shape(
                lambda w, m=method: jc.formats.dot(x, m.compress(w, None, (-2,))), w
            )
            assert made.dtype == jnp.float32


def test_integers_are_not_cut_to_the_grid():
    leaf = F.quantize(jnp.ones((4, 2)), F.INT8)
    for call in (lambda x: F.dot(x, leaf), lambda x: F.quantize(x, F.INT8)):
        with pytest.raises(UnsupportedInput, match="floating dtype, got int32; cast it"):
            call(jnp.ones((3, 4), jnp.int32))
