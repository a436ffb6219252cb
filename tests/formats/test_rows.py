"""Any leaf is a matrix of rows and back, and is multiplied a few dense rows at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.formats import rows
from jaxcomp.formats.layout import layout

F = jc.formats
rng = np.random.default_rng(0)


@pytest.mark.parametrize("shape,axes", [((32, 6), (0,)), ((2, 32, 3), (1,)), ((4, 8, 5), (0, 1))])
def test_there_and_back(shape, axes):
    leaf = F.quantize(rng.normal(size=shape).astype(np.float32), F.NVFP4, axes)
    matrix = rows.as_rows(leaf)
    place = layout(shape, axes)
    assert matrix.shape == (place.size_out, place.size_in)
    back = rows.place(matrix, place)
    assert jax.tree.structure(back) == jax.tree.structure(leaf)
    for a, b in zip(back.parts, leaf.parts, strict=True):
        # A scale of each of a stack's matrices is one of each row in the matrix of all.
        assert a.shape == b.shape or 1 < b.size == shape[0] < a.size
        np.testing.assert_array_equal(a, np.broadcast_to(b, a.shape))


@pytest.mark.parametrize("out", [1, 16, 50])
def test_blocks_of_rows_cover_the_weight_once(out, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK", 16 * 64)
    w = rng.normal(size=(out, 64)).astype(np.float32)
    leaf = F.quantize(w, F.INT4_G32, -1)
    x = rng.normal(size=(3, 64)).astype(np.float32)
    found = jax.jit(rows.matmul)(x, leaf)
    np.testing.assert_allclose(found, x @ np.asarray(leaf.dense()).T, atol=1e-4)


def test_neither_the_product_nor_its_gradient_holds_the_dense_weight():
    out, size = 1 << 14, 512
    codes = jnp.asarray(rng.integers(0, 16, (out, size // 4)))
    leaf = F.codebook(codes, jnp.asarray(rng.normal(size=(16, 4)), jnp.float32), size=size)
    x = jnp.ones((2, size))

    def loss(x, table):
        return (F.dot(x, leaf.__class__(**{**vars(leaf), "table": table})) ** 2).sum()

    for function in (loss, jax.grad(loss, (0, 1))):
        memory = jax.jit(function).lower(x, leaf.table).compile().memory_analysis()
        assert memory.temp_size_in_bytes < out * size * 4 // 2
